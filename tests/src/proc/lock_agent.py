# A process that locks files as it is told: one command a line, one answer a line. An answer is
# "ok ..." or the name of an error. Commands are documented where they are sent from.
import errno
import fcntl
import os
import signal
import struct
import sys
import time

FLOCK = "hhqqi4x"
MODES = {"sh": fcntl.F_RDLCK, "ex": fcntl.F_WRLCK, "un": fcntl.F_UNLCK}
OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38


class Interrupted(Exception):
    pass


def on_alarm(signum, frame):
    raise Interrupted()


signal.signal(signal.SIGALRM, on_alarm)


def setlk(fd, command, mode, first=0, length=0):
    wanted = struct.pack(FLOCK, MODES[mode], os.SEEK_SET, int(first), int(length), 0)
    return struct.unpack(FLOCK, fcntl.fcntl(fd, command, wanted))


def range_lock(fd, mode, wait, first=0, length=0):
    setlk(int(fd), fcntl.F_SETLKW if wait == "wait" else fcntl.F_SETLK, mode, first, length)


def ofd_lock(fd, mode, wait, first=0, length=0):
    setlk(int(fd), OFD_SETLKW if wait == "wait" else OFD_SETLK, mode, first, length)


def flock(fd, mode, wait):
    flag = {"sh": fcntl.LOCK_SH, "ex": fcntl.LOCK_EX, "un": fcntl.LOCK_UN}[mode]
    fcntl.flock(int(fd), flag | (0 if wait == "wait" else fcntl.LOCK_NB))


def getlk(fd, mode, first=0, length=0):
    kind, _, start, size, pid = setlk(int(fd), fcntl.F_GETLK, mode, first, length)
    name = {v: k for k, v in MODES.items()}[kind]
    return f"{name} {start} {size} {pid}"


def count(path, cycles):
    fd = os.open(path, os.O_RDWR)
    for _ in range(int(cycles)):
        fcntl.lockf(fd, fcntl.LOCK_EX)
        n = int(os.pread(fd, 16, 0) or b"0")
        os.pwrite(fd, b"%015d\n" % (n + 1), 0)
        fcntl.lockf(fd, fcntl.LOCK_UN)
    os.close(fd)


# As ping_pong -rw of ctdb: answers how the bytes grew between visits, a list of "round:growth"
# where it changed.
def ping_pong(path, locks, rounds):
    locks, fd = int(locks), os.open(path, os.O_RDWR)
    seen, growths, last = [0] * locks, [], None
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)
    for turn in range(int(rounds) * locks):
        at = turn % locks
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, (at + 1) % locks)
        now = os.pread(fd, 1, at)[0]
        growth, seen[at] = (now - seen[at]) % 256, (now + 1) % 256
        growth = (growth + 1) % 256
        os.pwrite(fd, bytes([seen[at]]), at)
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, at)
        if turn >= locks and growth != last:
            growths.append(f"{turn // locks}:{growth}")
            last = growth
    os.close(fd)
    return " ".join(growths)


def run(name, *args):
    if name == "open":
        return os.open(args[0], os.O_RDWR | os.O_CREAT, 0o644)
    if name == "close":
        return os.close(int(args[0]))
    if name == "dup":
        return os.dup(int(args[0]))
    if name == "read":
        return os.pread(int(args[0]), 1000, 0).decode()
    if name == "write":
        return os.pwrite(int(args[0]), args[1].encode(), 0)
    if name == "fsync":
        return os.fsync(int(args[0]))
    if name == "alarm":
        return signal.setitimer(signal.ITIMER_REAL, float(args[0])) and None
    if name == "fork":  # a child that holds the descriptors and does nothing
        if os.fork() == 0:
            time.sleep(float(args[0]))
            os._exit(0)
        return None
    commands = [range_lock, ofd_lock, flock, getlk, count, ping_pong]
    return {c.__name__: c for c in commands}[name](*args)


print("ready", flush=True)
for line in sys.stdin:
    try:
        answer = run(*line.split())
        print("ok" if answer is None else f"ok {answer}", flush=True)
    except Interrupted:
        print("EINTR", flush=True)
    except OSError as e:
        print(errno.errorcode.get(e.errno, e.errno), flush=True)
