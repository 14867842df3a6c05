# Copying and saving as people do it: `copies.sh DIR`. Prints what must not differ.
set -euo pipefail
cd "$1"
mkdir tree && cd tree
for i in $(seq 200); do mkdir -p "d$((i % 7))"; seq "$i" $((i * 37)) >"d$((i % 7))/f$i"; done
ln d1/f1 d2/hard
ln -s ../d1/f1 d3/soft
chmod 750 d4
mkfifo d5/pipe
setfattr -n user.note -v kept d6/f6
cd ..
# The content times of what is made here must not differ between two runs.
date() { find tree "$@" -exec touch -h -d '2001-02-03 04:05:06.789' {} +; }
list() {
    (
        cd "$1"
        find . -type d -printf '%P %y %m %U %G\n' | sort | sha256sum
        find . ! -type d -printf '%P %y %m %U %G %s %T@ %n %l\n' | sort | sha256sum
        find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum
    )
}
date
list tree
rsync -aHX tree/ synced && list synced
echo more >>tree/d1/f1
date -name f1
rsync -aHX --inplace tree/ synced && list synced
rsync -aHX --delete --checksum --itemize-changes tree/ synced
seq 5000 >tree/d0/f14
date -newermt 2002-01-01
rsync -aHX --no-whole-file tree/ synced && list synced
tar --xattrs -cf tree.tar tree && mkdir untarred && tar --xattrs -xpf tree.tar -C untarred && list untarred/tree
tar -df tree.tar && echo tar agrees
cp -a tree copied && list copied
diff -r --no-dereference --exclude=pipe tree copied && echo diff agrees
getfattr --only-values -n user.note copied/d6/f6 untarred/tree/d6/f6 2>/dev/null; echo
sed -i 's/^1/one/' tree/d0/f7 && sha256sum tree/d0/f7
perl -pi -e 's/2/two/' tree/d0/f7 && sha256sum tree/d0/f7
dd if=tree/d1/f8 of=dd bs=1000 conv=fsync status=none && cmp dd tree/d1/f8 && echo dd agrees
sort -o tree/d0/f7 tree/d0/f7 && sha256sum tree/d0/f7
split -b 1000 tree/d1/f8 part. && cat part.* | cmp - tree/d1/f8 && echo split agrees
gzip -k tree/d1/f8 && gunzip -c tree/d1/f8.gz | cmp - tree/d1/f8 && echo gzip agrees
install -m 0640 -D tree/d1/f8 deep/er/still && stat -c '%a %s' deep/er/still
mv tree/d1 moved && ls moved | wc -l
rm -rf tree synced && ls
