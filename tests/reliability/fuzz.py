"""Damaged files by the thousand: readers refuse them with an error of cellfm, or read what was written.

``python tests/reliability/fuzz.py --cases 100000 --seed 1``; ``--only KIND --case N`` repeats one. The memory is
limited, and a case that hangs or crashes ends the process with its number. Ends with 1 where anything was wrong.
"""

# ruff: noqa: T201 (this is a command)

import argparse
import collections
import faulthandler
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

sys.path.insert(1, str(Path(__file__).parents[1] / "helpers"))
from ckpt_bytes import ckpt_entry
from targets import TARGETS, Target, ckpt_tensors, files_of

from cellfm.errors import InputError

MEMORY = 1 << 30  # bytes that reading a small damaged file may take beside what the process holds
SECONDS = 5
FACTS_CHECKSUM = "facts_sha256"
ODD = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    1e308,
    0.5,
    "",
    "x",
    "../../x",
    "/etc/passwd",
    "nan",
    "é\udcff",
    [],
    {},
]
ODD += [
    [[]],
    {"a": 1},
    [1],
    ["GENE1"],
    "9" * 5000,
    float("nan"),
    float("inf"),
    "shard-00000",
    "mini/../x",
    "\x00",
    [None],
]
NOISE = [
    b"",
    b"\x80\x04\x95",
    b"{",
    b"[" * 100_000,
    b"9" * 5000,
    b"\xff\xfe",
    b"\x1f\x8b\x08",
    b"null",
    b"[]",
    b"{}",
    b'"a"',
]
NOISE += [b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x89HDF\r\n\x1a\n", b"NaN", b"\x00" * 64, b"a,b\n\x00,1\n", b'"\n']

Generator = np.random.Generator


class TooSlow(BaseException):
    """A case takes longer than it may."""


class Case:
    """One damage to the files of a target."""

    def __init__(self, target: Target, folder: Path, whole: dict[str, bytes], generator: Generator) -> None:
        self.target, self.folder, self.whole, self.generator = target, folder, whole, generator
        self.name = str(generator.choice(sorted(whole)))
        self.content = whole[self.name]
        self.resealed = False

    def below(self, end: int) -> int:
        return int(self.generator.integers(max(end, 1)))

    def put(self, content: bytes, name: str | None = None) -> str:
        (self.folder / (name or self.name)).write_bytes(content)
        return ""

    # Any bytes

    def flip(self) -> str:
        content = bytearray(self.content)
        for _ in range(int(self.generator.choice([1, 1, 1, 2, 8]))):
            if content:
                content[self.below(len(content))] ^= 1 << self.below(8)
        return self.put(bytes(content))

    def truncate(self) -> str:
        return self.put(self.content[: self.below(len(self.content))])

    def overwrite(self) -> str:
        start, length = self.below(len(self.content)), 1 + self.below(64)
        fill = self.generator.bytes(length) if self.below(2) else bytes([self.below(256)]) * length
        return self.put(self.content[:start] + fill + self.content[start + length :])

    def insert(self) -> str:
        start = self.below(len(self.content))
        noise = NOISE[self.below(len(NOISE))] if self.below(2) else self.generator.bytes(1 + self.below(16))
        return self.put(self.content[:start] + noise + self.content[start:])

    def delete(self) -> str:
        start = self.below(len(self.content))
        return self.put(self.content[:start] + self.content[start + 1 + self.below(64) :])

    def swap(self) -> str:
        a, b, length = self.below(len(self.content)), self.below(len(self.content)), 1 + self.below(64)
        content = bytearray(self.content)
        content[a : a + length], content[b : b + length] = content[b : b + length], content[a : a + length]
        return self.put(bytes(content))

    def append(self) -> str:
        return self.put(self.content + NOISE[self.below(len(NOISE))])

    def replace(self) -> str:
        others = [*NOISE, *self.whole.values(), self.generator.bytes(self.below(5000))]
        return self.put(others[self.below(len(others))])

    def remove(self) -> str:
        (self.folder / self.name).unlink()
        return ""

    def strange(self) -> str:
        """Something by that name that is no file."""
        path = self.folder / self.name
        path.unlink()
        kind = self.below(5)
        if kind == 0:
            path.mkdir()
        elif kind == 1:
            os.mkfifo(path)
        else:
            path.symlink_to(("/dev/zero", "/nowhere", path.name)[kind - 2])
        return ("folder", "pipe", "endless", "dangling", "loop")[kind]

    # JSON, arrays, tables: damage by those who know the format

    def json(self) -> str:
        names = [name for name in self.whole if name.endswith(".json")]
        if not names:
            return self.flip()
        self.name = names[self.below(len(names))]
        try:
            content = json.loads(self.whole[self.name])
        except ValueError:
            return self.flip()
        said = []
        for _ in range(1 + self.below(2)):
            places = list(_places(content))
            holder, key, where = places[self.below(len(places))]
            kind = self.below(6)
            if kind == 0:
                del holder[key]
                said.append(f"no {where}")
                break
            value = ODD[self.below(len(ODD))]
            if kind == 1:
                value = places[self.below(len(places))][0]
                value = json.loads(json.dumps(value))
            elif kind == 2 and isinstance(holder[key], list):
                value = holder[key] * 2
            elif kind == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                value = holder[key] * int(self.generator.choice([-1, 0, 2, 10**9])) + int(self.generator.choice([0, 1]))
            elif kind == 4 and isinstance(holder[key], list):
                value = holder[key][:-1]
            holder[key] = json.loads(json.dumps(value))
            said.append(f"{where} = {str(value)[:60]!r}")
        if self.below(2) and isinstance(content, dict):  # else its own checksum shows it
            content.pop(FACTS_CHECKSUM, None)
        self.resealed = not isinstance(content, dict) or FACTS_CHECKSUM not in content
        self.put(json.dumps(content).encode("utf-8", "surrogatepass"))
        return "; ".join(said)

    def arrays(self) -> str:
        """Other arrays, with a checksum that fits."""
        target = self.target
        if not target.arrays:
            return self.npy() if any(name.endswith(".npy") for name in self.whole) else self.overwrite()
        content, said = self.whole[target.arrays], "raw"
        if self.below(3):
            found = load(content)
            said = _other_arrays(found, self.generator)
            content = save({name: np.ascontiguousarray(array) for name, array in found.items()})
        else:
            header = bytearray(content[: 8 + int.from_bytes(content[:8], "little")])
            if self.below(3) == 0:
                header[:8] = int(self.generator.choice([0, 1, 2**20, 2**62, 2**40])).to_bytes(8, "little")
            else:
                digits = [match.start() for match in re.finditer(rb"\d", header[8:])]
                header[8 + digits[self.below(len(digits))]] = ord("0") + self.below(10)
            content = bytes(header) + content[len(header) :]
        self.name, self.resealed = target.arrays, True
        facts = json.loads(self.whole[target.facts])
        facts[target.checksum] = hashlib.sha256(content).hexdigest()
        facts.pop(FACTS_CHECKSUM, None)
        self.put(content)
        self.put(json.dumps(facts).encode(), target.facts)
        return said

    def npy(self) -> str:
        names = [name for name in self.whole if name.endswith(".npy")]
        if not names:
            return self.delete()
        self.name = names[self.below(len(names))]
        content = self.whole[self.name]
        length = int.from_bytes(content[8:10], "little")
        old, data = content[10 : 10 + length].decode(), content[10 + length :]
        shapes = ("(1000000000000,)", "(-1,)", "(3, 7)", "()", "(0,)", "(2,)", "(1,) * 9", "(99999999999999999999,)")
        kinds = ("|O", "<f8", "|S1000000", "<i8", "|V4", "<u2", "[('a', '<i4')]", "<c16", "<m8[s]", "<i4")
        new = re.sub(r"'descr': [^,]*", f"'descr': {kinds[self.below(len(kinds))]!r}", old) if self.below(2) else old
        new = re.sub(r"\([^)]*\)", shapes[self.below(len(shapes))], new) if self.below(2) or new == old else new
        if self.below(8) == 0:
            new = "__import__('os').system('true')"
        new = new.rstrip().ljust(length - 1)[: length - 1] + "\n"
        if self.below(4) == 0:  # the values themselves: offsets and gene ids that point anywhere
            new, data = old, _other_values(data, self.generator)
        content = content[:10] + new.encode() + data
        self.put(content)
        if self.target.sealed and self.below(2):
            self._reseal_shard(content)
        return new.strip()[:100]

    def _reseal_shard(self, content: bytes) -> None:
        """Size and checksum in the manifest fit what is there now."""
        manifest = json.loads(self.whole["corpus/manifest.json"])
        _, shard, name = self.name.split("/")
        facts = next(found for found in manifest["shards"] if found["name"] == shard)["files"][name]
        facts["bytes"], facts["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        self.put(json.dumps(manifest).encode(), "corpus/manifest.json")
        self.resealed = True

    def tensors(self) -> str:
        """A .ckpt with other tensors, or with lengths and shapes that lie."""
        if self.name != "weights.ckpt":
            return self.arrays()
        found = ckpt_tensors()
        said = _other_arrays(found, self.generator) if self.below(2) else "lies"
        kinds = {"f2": "Float16", "f4": "Float32", "f8": "Float64", "i4": "Int32", "i8": "Int64", "b1": "Bool"}
        entries = []
        liar = self.below(len(found))
        for i, (name, array) in enumerate(found.items()):
            shape, content = array.shape, array.tobytes()
            kind = kinds.get(array.dtype.str[1:], "Float32")
            if said == "lies" and i == liar:
                shape = ((2**40,), (2**31, 2**31), (), (0,), (1,) * 40, tuple(reversed(shape)), (len(content),))[
                    self.below(7)
                ]
                kind = ("Float32", "Float16", "Int64", "BFloat16", "String", "")[self.below(6)]
                if self.below(2):
                    content = content[: self.below(len(content))]
            entries.append(ckpt_entry(name, content, shape, kind))
        if self.below(4) == 0:
            self.generator.shuffle(entries)
        return self.put(b"".join(entries)) or said


DAMAGES = (
    "flip",
    "flip",
    "truncate",
    "overwrite",
    "insert",
    "delete",
    "swap",
    "append",
    "replace",
    "remove",
    "strange",
)
DAMAGES += ("json", "json", "json", "arrays", "arrays", "npy", "tensors", "tensors")


def _places(content: Any, where: str = "") -> Any:
    """Every place in parsed JSON that holds something."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in list(keys):
        yield content, key, f"{where}/{key}"
        yield from _places(content[key], f"{where}/{key}")


def _other_arrays(found: dict[str, np.ndarray], generator: Generator) -> str:
    """Change a dict of arrays in place; says how."""
    names = list(found)
    a, b = (names[i] for i in generator.integers(len(names), size=2))
    kind = int(generator.integers(9))
    if kind == 0:
        found[a], found[b] = found[b], found[a]
    elif kind == 1:
        types = ("f2", "f8", "i4", "i8", "b1", "u1")
        found[a] = found[a].astype(types[int(generator.integers(len(types)))])
    elif kind == 2:
        found[a] = found[a].ravel()
    elif kind == 3:
        found[a] = found[a][..., :-1]
    elif kind == 4:
        found[a] = np.full_like(found[a], np.nan if found[a].dtype.kind == "f" else -7)
    elif kind == 5:
        del found[a]
    elif kind == 6:
        found[f"{a}.more"] = found[a]
    elif kind == 7:
        found[a] = np.zeros((0, *found[a].shape), found[a].dtype)
    else:
        found[a] = found[a][None]
    return f"{('swap', 'type', 'flat', 'cut', 'nan', 'no', 'more', 'empty', 'deep')[kind]} {a} {b if not kind else ''}"


def _other_values(data: bytes, generator: Generator) -> bytes:
    start = 8 * int(generator.integers(max(len(data) // 8, 1)))
    value = int(generator.choice([-1, 2**62, 0, 2**31, 7])).to_bytes(8, "little", signed=True)
    return (data[:start] + value + data[start + 8 :])[: len(data)]


def _restore(folder: Path, whole: dict[str, bytes], touched: set[str]) -> None:
    for name in touched:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists() or path.is_symlink():
            path.unlink()
        path.write_bytes(whole[name])


def run_case(target: Target, folder: Path, whole: dict[str, bytes], expected: Any, seed: list[int]) -> tuple[str, str]:
    """What became of a case ("refused", "read", "same" or "WRONG"), and the damage in words."""
    case = Case(target, folder, whole, np.random.default_rng(seed))
    damage = DAMAGES[case.below(len(DAMAGES))]
    said = ""
    try:
        said = getattr(case, damage)()
        said = f"{damage} {case.name} {said}"
        path = folder / case.name
        changed = not path.is_file() or path.is_symlink() or path.read_bytes() != whole[case.name]
        signal.alarm(SECONDS)
        faulthandler.dump_traceback_later(2 * SECONDS, exit=True)
        try:
            found = target.read(folder)
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
    except InputError as error:
        return ("refused", said) if len(str(error)) > 20 else ("WRONG", f"{said}: says only {error}")
    except (Exception, TooSlow) as error:  # noqa: BLE001
        return "WRONG", f"{said}\n{''.join(traceback.format_exception(error, limit=-5))}"
    finally:
        touched = {case.name, target.facts, "corpus/manifest.json"} & whole.keys()
        _restore(folder, whole, touched)
    same = repr(found) == repr(expected)
    harmless = same and case.name.endswith(".json")  # other spaces, say
    if changed and not case.resealed and not harmless and case.name.startswith(target.sealed or ("/",)):
        return "WRONG", f"{said}: the checksum does not notice"
    return ("same" if same else "read"), said


def _limit_memory() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))


def _too_slow(*_: object) -> None:
    raise TooSlow(f"more than {SECONDS} seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--shown", type=int, default=20, help="different faults to show")
    args = parser.parse_args()
    faulthandler.enable()
    signal.signal(signal.SIGALRM, _too_slow)
    warnings.simplefilter("ignore")
    faults: dict[str, list[str]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as top:
        os.chdir(top)
        whole, expected = {}, {}
        for kind in args.only:
            folder = Path(top) / kind
            folder.mkdir()
            TARGETS[kind].write(folder)
            whole[kind], expected[kind] = files_of(folder), TARGETS[kind].read(folder)
        _limit_memory()
        for kind in args.only:
            start, tally = time.perf_counter(), collections.Counter()
            for number in range(args.cases) if args.case is None else [args.case]:
                # Where the process ends at once, this is what is left of it.
                print(f"\r{kind} {number}", end="", flush=True, file=sys.stderr)
                seed = [args.seed, list(TARGETS).index(kind), number]
                outcome, said = run_case(TARGETS[kind], Path(top) / kind, whole[kind], expected[kind], seed)
                tally[outcome] += 1
                if args.case is not None:
                    print(f"\n{outcome}: {said}")
                if outcome == "WRONG":
                    faults[f"{kind}: {said.splitlines()[-1][:70]}"].append(f"--only {kind} --case {number}: {said}")
            took = time.perf_counter() - start
            print(f"\r{kind:10} {dict(sorted(tally.items()))}, {took:.0f} s")
    for n, found in enumerate(sorted(faults.values(), key=len, reverse=True)[: args.shown]):
        print(f"\nfault {n + 1}, {len(found)} times, such as {found[0]}")
    print(f"\n{sum(map(len, faults.values())):,} faults of {len(faults):,} kinds")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
