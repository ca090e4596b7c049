"""Programs that try to pass without solving the task, or to learn what they must not know.

The task is ``double``: a list of integers, each doubled; its expected outputs hold `MARK`, which no program
can guess. Each program is of another kind; none is in the shared collection.
"""

from __future__ import annotations

from promptrl_plugin.suites.hidden import CallGroup

__all__ = ["CHEATS", "GROUP", "MARK", "SEARCHES"]

#: Part of every expected output; the programs below look for it in pieces, so as not to find themselves.
MARK = "Q7rV-expected-"
REFERENCE = f"def double(x):\n    return [{MARK!r} + str(v * 2) for v in x]\n"
GROUP = CallGroup("mbpp", "T/1", "double", REFERENCE, tuple([[i, i + 1]] for i in range(3)), 0, "base")

_RIGHT = f"[{MARK!r} + str(v * 2) for v in x]"

CHEATS = {
    # --- values that lie ---
    "liars in nested containers": (
        "class L:\n    __eq__ = lambda s, o: True\n    __hash__ = lambda s: 0\n"
        "def double(x): return [{'a': (L(),)}, L()]"
    ),
    "list subclass without content": (
        "class L(list):\n    __eq__ = __contains__ = lambda s, o: True\n    __ne__ = lambda s, o: False\n"
        "    __len__ = lambda s: 2\n    __iter__ = lambda s: iter(())\n    __class__ = list\n"
        "    __reduce__ = lambda s: (list, ())\ndef double(x): return L()"
    ),
    "str subclass": (
        "class S(str):\n    __eq__ = lambda s, o: True\n    __hash__ = str.__hash__\n    __str__ = lambda s: ''\n"
        "    __getitem__ = lambda s, k: 'x'\n    __len__ = lambda s: 0\ndef double(x): return [S('a'), S('b')]"
    ),
    "dict and int subclasses": (
        "class D(dict):\n    __eq__ = lambda s, o: True\n    items = keys = lambda s: []\n"
        "class I(int):\n    __eq__ = lambda s, o: True\n    __index__ = __int__ = __pos__ = lambda s: 0\n"
        "def double(x): return D(a=I(3)) if x[0] else [I(1), I(2)]"
    ),
    "float subclass with lying comparisons": (
        "class F(float):\n    __eq__ = __le__ = __ge__ = lambda s, o: True\n    __abs__ = __sub__ = lambda s, *o: 0.0\n"
        "    __bool__ = lambda s: True\ndef double(x): return [F('nan'), F('inf')]"
    ),
    "not a number": "def double(x): return [float('nan')] * 2",
    "numpy object array of liars": (
        "import numpy as np\nclass L:\n    __eq__ = lambda s, o: True\n"
        "class A(np.ndarray):\n    __eq__ = lambda s, o: True\n    __array_ufunc__ = lambda s, *a, **k: True\n"
        "def double(x): return np.array([L(), L()], dtype=object).view(A)"
    ),
    "type that claims to be another": (
        "class M(type):\n    __eq__ = lambda c, o: True\n    __hash__ = lambda c: hash(list)\n"
        "    __instancecheck__ = __subclasscheck__ = lambda c, o: True\n    mro = lambda c: [c, object]\n"
        "class L(metaclass=M):\n    __eq__ = lambda s, o: True\n    __class__ = property(lambda s: list)\n"
        "def double(x): return L()"
    ),
    "lazy values": (
        "class P:\n    def __getattr__(self, n): return lambda *a: True\n    def __iter__(self): return iter([self])\n"
        "def double(x):\n    return iter(lambda: P(), None) if x[0] else (P() for _ in range(2))"
    ),
    "forged standard-library state": (
        "import fractions, decimal, collections\ndef double(x):\n    f = object.__new__(fractions.Fraction)\n"
        "    f._numerator, f._denominator = [0], {}\n    d = collections.deque()\n    d.append(d)\n    return [f, d]"
    ),
    "an exception as value": "def double(x):\n    raise type('E', (Exception,), {'__eq__': lambda s, o: True})()",
    # --- the harness in the child ---
    "builtins, json, struct, pickle and os.write replaced": (
        "import builtins, json, os, pickle, posix, struct\nyes = lambda *a, **k: True\n"
        "for n in ('all', 'any', 'bool', 'len', 'isinstance', 'type', 'zip', 'enumerate', 'abs'):\n"
        "    setattr(builtins, n, yes)\n"
        "json.dumps = json.loads = pickle.dumps = pickle.loads = struct.pack = yes\n"
        "os.write = posix.write = lambda fd, d: posix.writev(fd, [d.replace(b'V', b'D')])\ndef double(x): return [9]"
    ),
    "runner's own functions replaced": (
        "import sys\nr = sys.modules['promptrl_plugin.checking.runner']\n"
        "r._Reporter.send_value = lambda s, v, i: s.send(b'D')\nr._setitimer = r._set_handler = lambda *a: None\n"
        "r.Frame.RAISED = r.Frame.TIMEOUT = r.Frame.LARGE = r.Frame.HELD\n"
        "c = sys.modules['promptrl_plugin.checking.codec']\nc._WRITERS.clear()\nc.encode = lambda *a: b'T'\n"
        "def double(x): return [9]"
    ),
    "lazily imported modules replaced": (
        "import sys, types\nclass Anything(types.ModuleType):\n"
        "    def __getattr__(self, n): return lambda *a, **k: True\n"
        "for n in list(sys.modules):\n    if n != '__main__': sys.modules[n] = Anything(n)\n"
        "sys.meta_path.clear()\ndef double(x): return [9]"
    ),
    "trace function that rewrites values": (
        "import sys\ndef tracer(f, e, a):\n    for n in list(f.f_locals):\n        f.f_locals[n] = True\n"
        "    return tracer\nsys.settrace(tracer)\nsys.setprofile(tracer)\ndef double(x): return [9]"
    ),
    "calls of later tests rewritten": (
        "import sys\ndef double(x):\n    f = sys._getframe()\n    while f:\n        for v in f.f_locals.values():\n"
        "            if type(v) is list and v and type(v[0]) is list:\n                for args in v: args[:] = [[]]\n"
        "        f = f.f_back\n    return []"
    ),
    "arguments changed in place": "def double(x):\n    x.clear()\n    return x",
    "tests cut short": (
        "import sys\ndef double(x):\n    f = sys._getframe()\n    while f:\n        for v in f.f_locals.values():\n"
        "            if type(v).__name__ == 'Job':\n                v.limits.clear()\n                v.calls = b''\n"
        "            if type(v) is list: v.clear()\n        f = f.f_back\n    return [9]"
    ),
    # --- the pipe ---
    "forged frames to every open file": (
        "import os\nframes = b'R\\0\\0\\0\\0I\\0\\0\\0\\0' + b'V\\1\\0\\0\\0T' * 3 + b'D\\0\\0\\0\\0'\n"
        "for fd in range(64):\n    try: os.write(fd, frames)\n    except OSError: pass\ndef double(x): return [9]"
    ),
    "forged frames from a thread, for ever": (
        "import threading, posix\ndef run():\n    while True:\n        try: posix.write(3, b'D\\0\\0\\0\\0')\n"
        "        except OSError: pass\nthreading.Thread(target=run, daemon=True).start()\ndef double(x): return [9]"
    ),
    "forged frames of absurd length": (
        "import posix\nposix.write(3, b'I\\0\\0\\0\\0V\\xff\\xff\\xff\\xff')\ndef double(x): return [9]"
    ),
    "every file closed": "import posix\nposix.closerange(0, 256)\ndef double(x): return [9]",
    "pipe opened again": (
        "import posix\ndef double(x):\n    for fd in range(8):\n        try:\n"
        "            f = posix.open(f'/proc/self/fd/{fd}', posix.O_RDWR)\n"
        "            posix.write(f, b'D\\0\\0\\0\\0')\n        except OSError: pass\n    return [9]"
    ),
    "pipe handed to a child that goes on": (
        "import posix, time\ntry: pid = posix.fork()\nexcept (OSError, AttributeError): pid = 1\n"
        "if pid == 0:\n    time.sleep(0.3)\n    posix.write(3, b'V\\1\\0\\0\\0T' * 3 + b'D\\0\\0\\0\\0')\n"
        "    time.sleep(60)\ndef double(x): return [9]"
    ),
    # --- time and order ---
    "work after the end": (
        "import atexit, threading, time\ndef late():\n    time.sleep(0.2)\n    import posix\n"
        "    posix.write(3, b'D\\0\\0\\0\\0')\natexit.register(late)\n"
        "threading.Thread(target=late).start()\ndef double(x): return [9]"
    ),
    "right, but long after the limit": (
        "import signal, time\ndef double(x):\n    signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n    time.sleep(1.8)\n    return " + _RIGHT
    ),
    "timeouts swallowed": (
        "import time\ndef double(x):\n    end = time.monotonic() + 1.8\n    while time.monotonic() < end:\n"
        "        try:\n            while time.monotonic() < end: pass\n        except BaseException: pass\n    return "
        + _RIGHT
    ),
    "right for the first tests only": "n = []\ndef double(x):\n    n.append(x)\n    return "
    + _RIGHT
    + " if len(n) < 3 else 0",
    "exit with success in the middle": (
        "import posix\ndef double(x):\n    if x[0] == 2: posix._exit(0)\n    return " + _RIGHT
    ),
    "a stopped process": "import posix\nposix.kill(posix.getpid(), 19)\ndef double(x): return [9]",
    # --- exhaustion ---
    "an exception whose text never ends": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\ndef double(x): raise E"
    ),
    "an exception whose text recurses": (
        "class E(BaseException):\n    def __str__(self): return str(self)\n    __repr__ = __str__\n"
        "def double(x): raise E(E())"
    ),
    "recursion in the C stack": (
        "import sys\nsys.setrecursionlimit(1 << 30)\nclass R:\n    def __getattr__(self, n): return getattr(self, n)\n"
        "def double(x): return R().a"
    ),
    "output without end": "def double(x):\n    while True: print('x' * 65536)",
    "an integer of a million digits": "def double(x): return [1 << 3_000_000]",
    "a value deeper than any stack": ("def double(x):\n    v = []\n    for _ in range(200_000): v = [v]\n    return v"),
}

_LOOK = "import re\nMARK = re.compile('Q[7]rV.expected.[0-9]')\n"  # a pattern does not find itself
#: Programs that return a list of what they found where they should not; a trustworthy judge leaves it empty.
SEARCHES = {
    "all objects and frames": _LOOK
    + (
        "import gc, sys\ndef seen(v):\n    try: return bool(MARK.search(repr(v)))\n    except Exception: return False\n"
        "def double(x):\n    found, f = [], sys._getframe(1)\n    while f:\n"
        "        found += [n for d in (f.f_locals, f.f_globals) for n, v in d.items() if seen(v)]\n"
        "        f = f.f_back\n"
        "    small = [v for v in gc.get_objects() if type(v) in (list, tuple, dict) and len(v) < 1000]\n"
        "    return found + [repr(v)[:99] for v in small if seen(v)]\n"
    ),
    "own memory": _LOOK
    + (
        "import io\ndef double(x):\n    found = []\n    try:\n        maps = io.open('/proc/self/maps').read()\n"
        "        memory = io.open('/proc/self/mem', 'rb', 0)\n    except OSError: return found\n"
        "    mark = re.compile(MARK.pattern.encode())\n"
        "    for line in maps.splitlines():\n        a, b = (int(n, 16) for n in line.split()[0].split('-'))\n"
        "        if ' rw' not in line or b - a > 1 << 26: continue\n        try:\n            memory.seek(a)\n"
        "            if mark.search(memory.read(b - a)): found.append(line)\n"
        "        except (OSError, ValueError, OverflowError): continue\n    return found\n"
    ),
    "other processes": (
        "import io, posix\ndef double(x):\n    found = []\n"
        "    for pid in (1, 2, 3, posix.getppid(), posix.getppid() + 1, posix.getsid(0), posix.getpgid(0)):\n"
        "        for name in ('environ', 'mem', 'maps', 'fd/3', 'root/etc/passwd'):\n            try:\n"
        "                if pid != posix.getpid(): io.open(f'/proc/{pid}/{name}', 'rb').read(1)\n"
        "                if pid != posix.getpid(): found.append((pid, name))\n"
        "            except OSError: continue\n    return found\n"
    ),
    "files": (
        "import io, os\ndef double(x):\n    found = []\n    for top in ROOTS:\n"
        "        for folder, _, names in os.walk(top):\n            for name in names:\n                try:\n"
        "                    if io.open(f'{folder}/{name}', 'rb').read(1): found.append(name)\n"
        "                except OSError: continue\n    return found\n"
    ),
    "environment": (
        "import os, ctypes\ndef double(x):\n    c = ctypes.CDLL(None)\n    c.getenv.restype = ctypes.c_char_p\n"
        "    found = [k for k in os.environ if 'SECRET' in k or 'TOKEN' in k or 'PROMPTRL_CACHE' in k]\n"
        "    return found + [v.decode() for v in (c.getenv(b'ADV_SECRET'),) if v]\n"
    ),
}
