"""What a program sees of a filesystem, one line per observation.

Run in an empty directory as root: `python3 posix.py DIR`. The same lines must come from a mount and
from a local directory. Nothing here may depend on time, inode numbers or block sizes.
"""
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import socket
import stat
import struct
import sys
import threading

ROOT = os.path.abspath(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
KEEP, PUNCH, ZERO = 1, 2, 16
PROBES = []


def probe(f):
    PROBES.append(f)
    return f


def tell(what, value):
    print(f"{tell.name}: {what}: {value}")


def attempt(f, *args, **kw):
    """The result, or the name of the error."""
    try:
        return f(*args, **kw)
    except OSError as e:
        return errno.errorcode[e.errno]


def digest(b):
    return hashlib.sha256(b).hexdigest()[:16]


def content(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data, mode="wb"):
    with open(path, mode) as f:
        f.write(data)


def fallocate(fd, mode, offset, length):
    done = LIBC.fallocate(fd, ctypes.c_int(mode), ctypes.c_long(offset), ctypes.c_long(length))
    return "ok" if done == 0 else errno.errorcode[ctypes.get_errno()]


def as_user(uid, f):
    """Runs f as another user and returns what it printed in its place."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        try:
            said = repr(attempt(f))
        except BaseException as e:
            said = f"raised {e!r}"
        os.write(w, said.encode())
        os._exit(0)
    os.close(w)
    said = b""
    while part := os.read(r, 65536):
        said += part
    os.close(r)
    os.waitpid(pid, 0)
    return said.decode()


@probe
def mapping():
    write("m", bytes(range(256)) * 64)
    with open("m", "r+b") as f:
        shared = mmap.mmap(f.fileno(), 0)
        private = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
        shared[100:105] = b"HELLO"
        tell("a read sees a shared mapping's write", os.pread(f.fileno(), 5, 100))
        private[200:205] = b"QUIET"
        tell("and not a private one's", os.pread(f.fileno(), 5, 200) == bytes(range(200, 205)))
        os.pwrite(f.fileno(), b"VIA WRITE", 300)
        tell("a mapping sees a write", shared[300:309])
        shared.flush()
        shared.close()
    tell("after close", digest(content("m")))


@probe
def direct_and_sync():
    block = mmap.mmap(-1, 8192)
    block[:] = b"d" * 8192
    fd = os.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    tell("write", os.writev(fd, [block]))
    back = mmap.mmap(-1, 8192)
    tell("read", (os.preadv(fd, [back], 0), back[:] == block[:]))
    os.close(fd)
    fd = os.open("sync", os.O_WRONLY | os.O_CREAT | os.O_SYNC)
    tell("sync", os.write(fd, b"x" * 5000))
    os.close(fd)
    fd = os.open("sync", os.O_WRONLY | os.O_DSYNC | os.O_APPEND)
    tell("append", os.write(fd, b"y" * 5000))
    os.close(fd)
    tell("content", digest(content("sync")))


@probe
def holes():
    fd = os.open("sparse", os.O_RDWR | os.O_CREAT)
    unit = 1 << 20
    os.pwrite(fd, b"a" * unit, 3 * unit)
    os.pwrite(fd, b"b" * unit, 9 * unit)
    os.ftruncate(fd, 20 * unit)
    os.fsync(fd)
    marks = []
    at = 0
    while True:
        data = attempt(os.lseek, fd, at, os.SEEK_DATA)
        if not isinstance(data, int):
            marks.append(data)
            break
        at = os.lseek(fd, data, os.SEEK_HOLE)
        marks.append((data // unit, at // unit))
    tell("data and holes in MiB", marks)
    tell("hole at the end", os.lseek(fd, 19 * unit, os.SEEK_HOLE) // unit)
    tell("past the end", attempt(os.lseek, fd, 20 * unit, os.SEEK_HOLE))
    blocks = os.fstat(fd).st_blocks * 512
    tell("blocks are those of the data", 2 * unit <= blocks <= 3 * unit)
    tell("punch", fallocate(fd, PUNCH | KEEP, 3 * unit, unit))
    tell("zero", fallocate(fd, ZERO, 9 * unit + 4096, 8192))
    tell("size kept", fallocate(fd, KEEP, 30 * unit, unit))
    tell("size", os.fstat(fd).st_size)
    tell("grown", fallocate(fd, 0, 24 * unit, unit))
    tell("size", os.fstat(fd).st_size)
    tell("zero beyond the end, size kept", fallocate(fd, ZERO | KEEP, 25 * unit, unit))
    tell("size", os.fstat(fd).st_size)
    tell("punch without keep", fallocate(fd, PUNCH, 0, unit))
    tell("length 0", fallocate(fd, 0, 0, 0))
    tell("content", digest(content("sparse")))
    os.ftruncate(fd, 3 * unit + 5)
    os.ftruncate(fd, 4 * unit)
    tell("cut and grown again", digest(content("sparse")))
    os.close(fd)


@probe
def past_4_gib():
    fd = os.open("big", os.O_RDWR | os.O_CREAT)
    end = 5 << 30
    os.pwrite(fd, b"far out", end)
    tell("size", os.fstat(fd).st_size - end)
    tell("read", os.pread(fd, 20, end - 5))
    tell("seek", os.lseek(fd, 0, os.SEEK_END) - end)
    os.ftruncate(fd, (4 << 30) + 3)
    tell("cut", os.fstat(fd).st_size)
    tell("negative", attempt(os.pwrite, fd, b"x", -1))
    os.close(fd)
    os.unlink("big")


@probe
def links():
    os.makedirs("a/b")
    os.makedirs("c")
    write("a/f", b"one")
    os.link("a/f", "c/g")
    tell("nlink", [os.stat(p).st_nlink for p in ("a/f", "c/g")])
    tell("same", os.path.samefile("a/f", "c/g"))
    write("c/g", b" more", "ab")
    tell("content", content("a/f"))
    tell("rename onto the same inode", (attempt(os.rename, "a/f", "c/g"), os.path.exists("a/f")))
    os.unlink("a/f")
    tell("nlink", os.stat("c/g").st_nlink)
    tell("directories", attempt(os.link, "a", "d"))
    tell("existing", attempt(os.link, "c/g", "c/g"))
    os.symlink("c/g", "s")
    os.link("s", "s2", follow_symlinks=False)
    tell("of a symlink", (os.readlink("s2"), os.lstat("s").st_nlink))
    tell("directory links", [os.stat(p).st_nlink for p in (".", "a", "a/b")])
    os.rename("a/b", "c/b")
    tell("after a move", [os.stat(p).st_nlink for p in (".", "a", "c")])


@probe
def renames():
    for d in ("p/q/r", "x/y"):
        os.makedirs(d)
    write("p/f", b"f")
    tell("into itself", attempt(os.rename, "p", "p/q/p2"))
    tell("deep into itself", attempt(os.rename, "p", "p/q/r/p2"))
    tell("onto its own parent", attempt(os.rename, "p/q/r", "p"))
    tell("file over directory", attempt(os.rename, "p/f", "x"))
    tell("directory over file", attempt(os.rename, "x", "p/f"))
    tell("over a full directory", attempt(os.rename, "x", "p"))
    os.mkdir("empty")
    tell("over an empty directory", attempt(os.rename, "x", "empty"))
    tell("across parents", attempt(os.rename, "empty/y", "p/q/y"))
    tell("tree", sorted(d for d, _, _ in os.walk(".")))
    tell("missing", attempt(os.rename, "nothing", "p"))
    tell("dot", attempt(os.rename, "p/.", "z"))
    write("g", b"g")
    fd = os.open("g", os.O_RDONLY)
    write("h", b"hh")
    os.rename("h", "g")
    tell("over an open file", (os.read(fd, 9), os.fstat(fd).st_nlink, content("g")))
    os.close(fd)
    os.symlink("p", "link")
    os.rename("link", "link2")
    tell("symlink", (os.readlink("link2"), os.path.lexists("link")))
    flag = lambda a, b, f: attempt_syscall(LIBC.renameat2, -100, a.encode(), -100, b.encode(), f)
    tell("noreplace", flag("g", "p", 1))
    tell("exchange", (flag("g", "p", 2), os.path.isdir("g"), content("p")))
    tell("exchange missing", flag("g", "none", 2))
    tell("both flags", flag("g", "p", 3))


def attempt_syscall(f, *args):
    done = f(*args)
    return "ok" if done == 0 else errno.errorcode[ctypes.get_errno()]


@probe
def names():
    tell("255", attempt(write, "n" * 255, b"x"))
    tell("256", attempt(write, "n" * 256, b"x"))
    odd = [b"\xff\xfe", b"a\nb", b" ", b"-", b"\xc3\xa9", b"e\xcc\x81", b"*?[", b"a" * 255, b"..."]
    for n in odd:
        os.close(os.open(n, os.O_CREAT | os.O_WRONLY))
    tell("odd ones", sorted(n for n in os.listdir(b".") if n != b"n" * 255))
    tell("case", (attempt(write, "Case", b"1"), attempt(write, "case", b"2"), content("Case")))
    here = os.getcwd()
    for _ in range(14):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.chdir(here)
    long = "/".join(["d" * 250] * 14)
    tell("a long path", attempt(os.mkdir, long + "/" + "e" * 200))
    tell("4096", attempt(os.stat, "./" * 2048))
    tell("4094", attempt(lambda: os.stat("./" * 2047).st_nlink > 0))
    tell("component of a file", attempt(os.stat, "case/x"))
    tell("empty", attempt(os.stat, ""))
    tell("rmdir dot", attempt(os.rmdir, "."))
    tell("rmdir dot dot", attempt(os.rmdir, "d" * 250 + "/.."))


@probe
def symlinks():
    os.symlink("t" * 4095, "long")
    tell("4095", len(os.readlink("long")))
    tell("size", os.lstat("long").st_size)
    tell("4096", attempt(os.symlink, "t" * 4096, "longer"))
    os.symlink("loop2", "loop1")
    os.symlink("loop1", "loop2")
    tell("loop", attempt(os.stat, "loop1"))
    tell("nofollow", attempt(os.open, "long", os.O_RDONLY | os.O_NOFOLLOW))
    tell("dangling", attempt(os.stat, "long"))
    os.symlink("made", "points")
    os.close(os.open("points", os.O_CREAT | os.O_WRONLY))
    tell("create through", os.path.isfile("made"))
    tell("excl through", attempt(os.open, "points", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.lchown("points", 12, 34)
    s = os.lstat("points")
    tell("owner", (s.st_uid, s.st_gid, oct(s.st_mode), os.stat("made").st_uid))
    tell("empty target", attempt(os.symlink, "", "e"))


@probe
def opens():
    os.mkdir("dir")
    write("file", b"12345")
    def o(p, f):
        fd = attempt(os.open, p, f)
        return fd if isinstance(fd, str) else os.close(fd)

    tell("write a directory", o("dir", os.O_WRONLY))
    tell("create a directory", o("dir", os.O_CREAT | os.O_RDONLY))
    tell("directory flag", o("file", os.O_DIRECTORY))
    tell("excl", o("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    tell("missing", o("none", os.O_RDONLY))
    tell("below a file", o("file/x", os.O_CREAT | os.O_WRONLY))
    fd = os.open("file", os.O_RDONLY)
    tell("write to a reader", attempt(os.write, fd, b"x"))
    tell("cut by a reader", attempt(os.ftruncate, fd, 0))
    os.close(fd)
    fd = os.open("file", os.O_WRONLY)
    tell("read by a writer", attempt(os.read, fd, 1))
    os.close(fd)
    os.close(os.open("file", os.O_RDWR | os.O_TRUNC))
    tell("truncated", os.stat("file").st_size)
    fd = os.open("new", os.O_RDWR | os.O_CREAT, 0o000)
    tell("mode 0 but open", (os.write(fd, b"ok"), os.pread(fd, 2, 0)))
    os.close(fd)
    tell("negative seek", attempt(os.lseek, os.open("file", 0), -1, 0))
    tell("read a directory", attempt(os.read, os.open("dir", os.O_RDONLY), 1))


@probe
def unlinked():
    fd = os.open("gone", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"still here")
    os.unlink("gone")
    tell("nlink", os.fstat(fd).st_nlink)
    os.pwrite(fd, b"STILL", 0)
    os.fsync(fd)
    tell("content", os.pread(fd, 99, 0))
    os.ftruncate(fd, 100000)
    tell("size", os.fstat(fd).st_size)
    tell("mode", (os.fchmod(fd, 0o640), oct(os.fstat(fd).st_mode)))
    tell("link back", attempt(os.link, f"/proc/self/fd/{fd}", "back", follow_symlinks=True))
    write("gone", b"another")
    tell("a new one", (content("gone"), os.pread(fd, 10, 0)))
    os.close(fd)
    os.mkdir("d")
    dfd = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    tell("make in a removed directory", attempt(os.mkdir, "x", dir_fd=dfd))
    tell("list a removed directory", attempt(os.listdir, dfd))
    os.close(dfd)


@probe
def appends():
    write("log", b"")
    fds = [os.open("log", os.O_WRONLY | os.O_APPEND) for _ in range(3)]
    for i in range(300):
        os.write(fds[i % 3], b"%05d\n" % i)
    tell("in order", content("log") == b"".join(b"%05d\n" % i for i in range(300)))
    os.pwrite(fds[0], b"at the end\n", 0)
    tell("pwrite appends", content("log")[-11:])
    os.lseek(fds[1], 0, 0)
    os.write(fds[1], b"so does write\n")
    tell("after a seek", content("log")[-14:])
    for fd in fds:
        os.close(fd)


@probe
def appends_and_places():
    # A mapping's pages go back through any handle of the file, also through one that appends.
    write("mapped", b"a" * 5000)
    fd = os.open("mapped", os.O_RDWR | os.O_APPEND)
    with mmap.mmap(fd, 5000) as m:
        m[0:3] = b"xyz"
        m.flush()
        tell("a mapping of an appending descriptor", (os.fstat(fd).st_size, content("mapped")[:5]))
        other = os.open("mapped", os.O_RDWR)
        with mmap.mmap(other, 5000) as n:
            n[4096:4099] = b"uvw"
            n.flush()
        os.write(fd, b"end")
        os.fsync(fd)
    tell("beside another", (os.fstat(fd).st_size, digest(content("mapped"))))
    # The flag counts at the write, not at the open.
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, b"-begin-", 0)
    tell("no longer appending", (os.fstat(fd).st_size, content("mapped")[:9], content("mapped")[-5:]))
    fcntl.fcntl(other, fcntl.F_SETFL, os.O_APPEND)
    os.pwrite(other, b"-later", 0)
    tell("appending from now on", (os.fstat(fd).st_size, content("mapped")[:9], content("mapped")[-9:]))
    os.close(fd)
    os.close(other)


@probe
def before_it_is_committed():
    write("f", b"content")
    fd = os.open("f", os.O_RDONLY | os.O_TRUNC)
    tell("cut by a reader", (os.fstat(fd).st_size, os.stat("f").st_size, content("f")))
    os.close(fd)
    with open("g", "wb", buffering=0) as g:
        g.write(b"x" * 65536)
        tell("blocks of what was just written", os.stat("g").st_blocks > 0)
        os.fchmod(g.fileno(), 0o666)
    fd = os.open("sparse", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 20)
    with mmap.mmap(fd, 1 << 20) as m:
        m[500_000] = 1
        tell("data in a mapping", os.lseek(fd, 0, os.SEEK_DATA) <= 500_000)
        m[10] = 1
        tell("and more of it", os.lseek(fd, 0, os.SEEK_DATA))
    os.close(fd)
    fine_sleep()
    fd = os.open("g", os.O_RDONLY | os.O_NOATIME)
    before = os.fstat(fd).st_atime_ns
    os.pread(fd, 10, 0)
    tell("read without a trace", os.fstat(fd).st_atime_ns == before)
    os.close(fd)


@probe
def special_rights():
    def mode(path):
        return oct(os.stat(path).st_mode & 0o7777)

    def fresh():
        write("s", b"program")
        os.chmod("s", 0o6777)

    def cut():
        os.close(os.open("s", os.O_WRONLY | os.O_TRUNC))

    def written():
        fd = os.open("s", os.O_WRONLY)
        os.write(fd, b"x")
        seen = oct(os.fstat(fd).st_mode & 0o7777)
        os.close(fd)
        return seen

    def grown():
        fd = os.open("s", os.O_WRONLY)
        os.posix_fallocate(fd, 0, 100)
        os.close(fd)

    os.chmod(".", 0o777)
    for f in (cut, written, grown):
        fresh()
        tell(f.__name__, (as_user(1000, f), mode("s")))
    fresh()
    os.chown("s", -1, -1)
    tell("chown to nobody", mode("s"))


@probe
def removed_and_held():
    os.mkfifo("p")
    os.mkdir("d")
    write("f", b"content")
    fds = [os.open("p", os.O_RDWR), os.open("d", os.O_PATH), os.open("f", os.O_PATH)]
    os.remove("p")
    os.rmdir("d")
    os.remove("f")
    os.mkdir("here")
    was = os.getcwd()
    os.chdir("here")
    os.rmdir(was + "/here")
    # Longer than a cluster remembers what nobody has open.
    threading.Event().wait(2.5)
    for fd in fds:
        st = os.fstat(fd)
        tell("found", (stat.S_IFMT(st.st_mode), st.st_nlink))
    tell("where we are", attempt(lambda: os.stat(".").st_nlink))
    tell("nothing here", attempt(os.open, "x", os.O_RDONLY))
    os.chdir(was)
    for fd in fds:
        os.close(fd)


@probe
def copies():
    data = bytes(range(256)) * 8192
    write("from", data)
    a, b = os.open("from", os.O_RDONLY), os.open("to", os.O_RDWR | os.O_CREAT)
    done = 0
    while done < len(data):
        n = os.copy_file_range(a, b, len(data) - done, done, done)
        if n == 0:
            break
        done += n
    tell("copy_file_range", (done == len(data), digest(content("to"))))
    n = os.copy_file_range(a, b, 5000, 123, 3 << 20)
    tell("with a gap", (n, os.fstat(b).st_size, digest(content("to"))))
    c = os.open("sent", os.O_WRONLY | os.O_CREAT)
    done = 0
    while done < len(data):
        done += os.sendfile(c, a, done, len(data) - done)
    tell("sendfile", digest(content("sent")))
    tell("past the end", os.copy_file_range(a, b, 10, len(data)))


@probe
def ids_and_modes():
    os.umask(0o027)
    write("f", b"")
    os.mkdir("d")
    tell("umask", (oct(os.stat("f").st_mode), oct(os.stat("d").st_mode)))
    os.umask(0)
    os.mkdir("sg")
    os.chown("sg", 0, 1234)
    os.chmod("sg", 0o2777)
    write("sg/f", b"")
    os.mkdir("sg/d")
    tell("setgid directory", (os.stat("sg/f").st_gid, os.stat("sg/d").st_gid, oct(os.stat("sg/d").st_mode)))
    tell("made by a user", as_user(1000, lambda: (write("sg/u", b""), os.stat("sg/u").st_gid, os.stat("sg/u").st_uid)))
    tell("setgid of a foreign group", as_user(1000, lambda: (os.chmod("sg/u", 0o2755), oct(os.stat("sg/u").st_mode))))
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    write("sticky/root", b"")
    tell("sticky unlink", as_user(1000, lambda: os.unlink("sticky/root")))
    tell("sticky rename", as_user(1000, lambda: os.rename("sticky/root", "sticky/mine")))
    tell("own file", as_user(1000, lambda: (write("sticky/own", b""), os.unlink("sticky/own"))))
    write("suid", b"prog")
    os.chown("suid", 1000, 1000)
    os.chmod("suid", 0o6755)
    tell("write by another clears", (os.chmod("suid", 0o6777), as_user(1001, lambda: (write("suid", b"x", "ab"), oct(os.stat("suid").st_mode)))))
    os.chmod("suid", 0o6777)
    tell("truncate by another", as_user(1001, lambda: (os.truncate("suid", 1), oct(os.stat("suid").st_mode))))
    os.chmod("suid", 0o6755)
    os.chown("suid", 1000, 1001)
    tell("chown clears", oct(os.stat("suid").st_mode))
    os.chmod("suid", 0o2745)
    os.chown("suid", 1000, 1002)
    tell("without group execute", oct(os.stat("suid").st_mode))
    tell("chmod by a stranger", as_user(1003, lambda: os.chmod("suid", 0o777)))
    tell("chown by a stranger", as_user(1003, lambda: os.chown("suid", 1003, 1003)))
    tell("chgrp by the owner", as_user(1000, lambda: os.chown("suid", -1, 1000)))
    tell("access", as_user(1003, lambda: [os.access("f", m) for m in (os.R_OK, os.W_OK, os.X_OK)]))
    write("private", b"secret")
    os.chmod("private", 0o600)
    tell("read a private file", as_user(1000, lambda: content("private")))
    os.mkdir("closed", 0o700)
    write("closed/f", b"")
    tell("look into a private directory", as_user(1000, lambda: os.stat("closed/f")))


@probe
def special_nodes():
    os.mkfifo("fifo")
    tell("fifo", stat.filemode(os.stat("fifo").st_mode))
    got = []
    reader = threading.Thread(target=lambda: got.append(content("fifo")))
    reader.start()
    write("fifo", b"through the pipe")
    reader.join()
    tell("content", got)
    here = os.getcwd()
    server = socket.socket(socket.AF_UNIX)
    server.bind("sock")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("sock")
    conn, _ = server.accept()
    client.send(b"hello")
    tell("socket", (conn.recv(9), stat.filemode(os.stat("sock").st_mode)))
    tell("open a socket", attempt(os.open, "sock", os.O_RDONLY))
    os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    s = os.stat("null")
    tell("device", (stat.filemode(s.st_mode), os.major(s.st_rdev), os.minor(s.st_rdev)))
    os.mknod("plain", 0o644 | stat.S_IFREG)
    tell("mknod of a file", (os.stat("plain").st_size, stat.filemode(os.stat("plain").st_mode)))
    os.chdir(here)


@probe
def xattrs():
    write("x", b"")
    tell("none", os.listxattr("x"))
    os.setxattr("x", "user.one", b"1" * 1000)
    os.setxattr("x", "user.empty", b"")
    os.setxattr("x", "trusted.t", b"root only")
    os.setxattr("x", "security.s", b"label")
    tell("list", sorted(os.listxattr("x")))
    tell("values", [os.getxattr("x", n) for n in ("user.empty", "trusted.t", "security.s")])
    tell("create again", attempt(os.setxattr, "x", "user.one", b"", os.XATTR_CREATE))
    tell("replace missing", attempt(os.setxattr, "x", "user.two", b"", os.XATTR_REPLACE))
    tell("get missing", attempt(os.getxattr, "x", "user.two"))
    tell("remove missing", attempt(os.removexattr, "x", "user.two"))
    tell("no namespace", attempt(os.setxattr, "x", "plain", b""))
    tell("foreign namespace", attempt(os.setxattr, "x", "system.nonsense", b""))
    tell("name of 255", attempt(os.setxattr, "x", "user." + "n" * 250, b"v"))
    tell("name of 256", attempt(os.setxattr, "x", "user." + "n" * 251, b"v"))
    tell("value over 64 KiB", attempt(os.setxattr, "x", "user.big", b"v" * 65537))
    os.symlink("x", "s")
    tell("user on a symlink", attempt(os.setxattr, "s", "user.s", b"", follow_symlinks=False))
    os.link("x", "x2")
    tell("through a link", os.getxattr("x2", "user.one") == b"1" * 1000)
    os.removexattr("x", "user.one")
    tell("removed", attempt(os.getxattr, "x2", "user.one"))
    tell("of a stranger", as_user(1000, lambda: os.setxattr("x", "user.mine", b"")))
    tell("trusted is hidden", as_user(1000, lambda: sorted(os.listxattr("x"))))


@probe
def times():
    write("t", b"12345")
    os.mkdir("d")

    def changed(what, f, *paths):
        for p in paths:
            os.utime(p, ns=(10**9, 10**9), follow_symlinks=False)
        before = {p: os.lstat(p) for p in paths}
        fine_sleep()
        result = attempt(f)
        after = {p: os.lstat(p) for p in paths if os.path.lexists(p)}
        moved = {
            p: "".join(
                k[3] for k in ("st_mtime_ns", "st_ctime_ns") if getattr(before[p], k) != getattr(after[p], k)
            )
            for p in after
        }
        if isinstance(result, str):
            moved["result"] = result
        tell(what, sorted(moved.items()))

    changed("read", lambda: content("t") and None, "t")
    changed("write", lambda: write("t", b"x", "r+b"), "t")
    changed("write of nothing", lambda: write("t", b"", "r+b"), "t")
    changed("truncate to the same size", lambda: os.truncate("t", 5), "t")
    changed("truncate", lambda: os.truncate("t", 3), "t")
    changed("ftruncate to the same size", lambda: os.ftruncate(os.open("t", os.O_RDWR), 3), "t")
    changed("open with O_TRUNC", lambda: os.close(os.open("t", os.O_WRONLY | os.O_TRUNC)), "t")
    changed("again", lambda: os.close(os.open("t", os.O_WRONLY | os.O_TRUNC)), "t")
    changed("chmod", lambda: os.chmod("t", 0o600), "t")
    changed("chmod to the same", lambda: os.chmod("t", 0o600), "t")
    changed("chown", lambda: os.chown("t", 1, 1), "t")
    changed("chown of nothing", lambda: os.chown("t", -1, -1), "t")
    changed("xattr", lambda: os.setxattr("t", "user.a", b"1"), "t")
    changed("link", lambda: os.link("t", "d/l"), "t", "d", ".")
    changed("unlink one of two", lambda: os.unlink("d/l"), "t", "d", ".")
    changed("create", lambda: write("d/n", b""), "d", ".")
    changed("create again", lambda: write("d/n", b""), "d", "d/n")
    changed("mkdir", lambda: os.mkdir("d/dd"), "d")
    changed("rmdir", lambda: os.rmdir("d/dd"), "d")
    changed("symlink", lambda: os.symlink("x", "d/s"), "d")
    changed("rename within", lambda: os.rename("d/n", "d/m"), "d", "d/m" if os.path.exists("d/m") else "d")
    os.mkdir("e")
    changed("rename across", lambda: os.rename("d/m", "e/m"), "d", "e")
    fd = os.open("c", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"12345")
    before = os.fstat(fd)
    fine_sleep()
    os.close(fd)
    after = os.stat("c")
    moved = [k for k in ("st_mtime_ns", "st_ctime_ns") if getattr(before, k) != getattr(after, k)]
    tell("close", (moved, after.st_ctime_ns <= after.st_mtime_ns))
    changed("failed create", lambda: os.mkdir("d"), "d", ".")
    changed("failed unlink", lambda: os.unlink("d/none"), "d")
    changed("readdir", lambda: os.listdir("d") and None, "d")
    for ns in (0, 1, -1, -(10**9) - 5, 2**31 * 10**9 + 7, 999_999_999):
        os.utime("t", ns=(ns, ns))
        s = os.stat("t")
        tell(f"time {ns}", (s.st_atime_ns, s.st_mtime_ns))


def fine_sleep():
    """Longer than a tick of the kernel's coarse clock."""
    threading.Event().wait(0.012)


@probe
def access_times():
    def moved(what, f, path):
        fine_sleep()
        before = os.lstat(path)
        f(path)
        after = os.lstat(path)
        tell(what, (after.st_atime_ns > before.st_atime_ns, after.st_ctime_ns == before.st_ctime_ns))

    def read(path):
        content(path)

    def mapped(path):
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
            return bytes(m)

    write("r", b"content")
    moved("first read", read, "r")
    moved("second read", read, "r")
    fine_sleep()
    write("r", b"more", "ab")
    moved("read after a write", read, "r")
    moved("and again", read, "r")
    fine_sleep()
    os.chmod("r", 0o600)
    moved("read after chmod", mapped, "r")
    moved("and again, mapped", mapped, "r")
    os.utime("r", ns=(0, 10**9))
    tell("set", os.stat("r").st_atime_ns)
    moved("read after utime", read, "r")
    os.mkdir("listed")
    moved("first listing", os.listdir, "listed")
    moved("second listing", os.listdir, "listed")
    os.symlink("r", "s")
    moved("first readlink", os.readlink, "s")
    moved("second readlink", os.readlink, "s")


@probe
def listing():
    os.mkdir("many")
    for i in range(900):
        os.close(os.open(f"many/stay{i}", os.O_CREAT | os.O_WRONLY))
    seen = []
    with os.scandir("many") as it:
        for n, entry in enumerate(it):
            seen.append(entry.name)
            if n % 3 == 0:
                os.close(os.open(f"many/come{n}", os.O_CREAT | os.O_WRONLY))
            if n % 5 == 0:
                os.close(os.open("many/brief", os.O_CREAT | os.O_WRONLY))
                os.unlink("many/brief")
    stay = [n for n in seen if n.startswith("stay")]
    tell("each that stays once", (len(stay), len(set(stay)), len(seen) == len(set(seen))))
    for i in range(0, 900, 2):
        os.unlink(f"many/stay{i}")
    left = os.listdir("many")
    tell("after removals", (sum(n.startswith("stay") for n in left), len(left) == len(set(left))))
    fd = os.open("many", os.O_RDONLY)
    tell("twice through one descriptor", sorted(os.listdir(fd)) == sorted(os.listdir(fd)) == sorted(left))
    os.close(fd)
    kinds = {e.name: (e.is_dir(), e.is_file(), e.is_symlink()) for e in os.scandir(".")}
    tell("kinds", kinds)
    tell("remove a full directory", attempt(os.rmdir, "many"))


@probe
def whole_files():
    v = os.statvfs(".")
    tell("names", v.f_namemax)
    tell("space", v.f_blocks >= v.f_bfree >= v.f_bavail > 0 and v.f_files > 0)
    write("big", bytes(10_000_000))
    with open("big", "r+b", buffering=0) as f:
        for i in range(0, 10_000_000, 999_983):
            f.seek(i)
            f.write(struct.pack("<Q", i))
        f.flush()
        os.fdatasync(f.fileno())
    tell("scattered writes", digest(content("big")))
    os.posix_fallocate(os.open("fa", os.O_RDWR | os.O_CREAT), 0, 1_000_000)
    tell("posix_fallocate", (os.stat("fa").st_size, digest(content("fa"))))
    fds = [os.open("big", os.O_RDONLY) for _ in range(200)]
    tell("200 times open", all(os.pread(fd, 1, 5) == b"\0" for fd in fds))
    for fd in fds:
        os.close(fd)
    fd = os.open("pipe-like", os.O_RDWR | os.O_CREAT)
    tell("vectors", (os.writev(fd, [b"ab", b"", b"cde"]), os.preadv(fd, [bytearray(2), bytearray(9)], 0)))
    tell("flags", fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK))
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.lseek(fd, 0, 0)
    os.write(fd, b"end")
    tell("append set later", os.pread(fd, 20, 0))
    os.close(fd)


@probe
def handles():
    class Handle(ctypes.Structure):
        _fields_ = [("bytes", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]

    os.mkdir("d")
    write("d/f", b"found by its handle")
    root = os.open(".", os.O_RDONLY)
    h, mount_id = Handle(bytes=128), ctypes.c_int()
    done = LIBC.name_to_handle_at(-100, b"d/f", ctypes.byref(h), ctypes.byref(mount_id), 0)
    tell("name to handle", done)
    os.rename("d/f", "g")
    write("/proc/sys/vm/drop_caches", "2", "w")
    fd = LIBC.open_by_handle_at(root, ctypes.byref(h), os.O_RDONLY)
    tell("handle to file", os.read(fd, 99) if fd >= 0 else errno.errorcode[ctypes.get_errno()])
    os.close(fd)
    os.unlink("g")
    write("/proc/sys/vm/drop_caches", "2", "w")
    fd = LIBC.open_by_handle_at(root, ctypes.byref(h), os.O_RDONLY)
    tell("handle to nothing", fd if fd >= 0 else errno.errorcode[ctypes.get_errno()])
    os.close(root)


@probe
def numbers():
    seen = set()
    for _ in range(100):
        write("brief", b"")
        os.mkdir("briefly")
        seen |= {os.stat("brief").st_ino, os.stat("briefly").st_ino}
        os.unlink("brief")
        os.rmdir("briefly")
    # A local filesystem may use a number again; the mount must not.
    tell("never used again", len(seen) == 200 or os.statvfs(".").f_fsid != 0)
    tell("the same through every name", (write("n", b""), os.link("n", "m"), os.stat("n").st_ino == os.stat("m").st_ino))
    before = os.stat("n").st_ino
    os.rename("n", "o")
    tell("the same after a rename", os.stat("o").st_ino == before)
    tell("as listed", all(e.inode() == e.stat(follow_symlinks=False).st_ino for e in os.scandir(".")))


def main():
    os.chdir(ROOT)
    for f in PROBES:
        tell.name = f.__name__
        os.mkdir(f.__name__)
        os.chmod(f.__name__, 0o755)
        os.chdir(f.__name__)
        try:
            f()
        except Exception as e:
            tell("raised", f"{type(e).__name__} {e}")
        os.umask(0o022)
        os.chdir(ROOT)


main()
