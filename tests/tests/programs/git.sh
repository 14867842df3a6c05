# Ordinary work with git on a repository of some hundreds of files: `git.sh DIR`. Prints what must not differ.
set -euo pipefail
cd "$1"
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_PAGER=cat
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example GIT_AUTHOR_DATE='2024-01-01T00:00:00Z'
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
git init -q -b main repo
cd repo
for d in $(seq 10); do
    mkdir -p "dir$d/sub"
    for f in $(seq 40); do
        printf 'file %s of %s\n%s\n' "$f" "$d" "$(seq $((f * d)))" >"dir$d/sub/f$f.txt"
    done
done
ln -s dir1/sub link
chmod +x dir1/sub/f1.txt
git add -A
git commit -q -m first
for f in dir[4-9]/sub/f1*.txt; do echo changed >>"$f"; done
git commit -q -a -m second
git checkout -q -b side HEAD~1
git mv dir2 moved
git rm -q -r dir3
git commit -q -m side
git -c merge.renameLimit=10000 merge -q -m merged main
git gc -q
git fsck --full --strict 2>&1
git status --porcelain
git log --format='%H %s'
cd ..
git clone -q repo copy
git -C copy fsck --full 2>&1
diff -r --exclude=.git repo copy && echo same
git -C copy stash list
git -C copy worktree add -q ../tree main
(cd tree && find . -name .git -prune -o -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
