"""An interpreter of PTX in NumPy, for the instructions that LLVM emits for a rule.

The threads of a block run in lockstep: of all threads, those at the smallest instruction run. An exchange within a warp
waits until all of its threads are there. It refuses what a card refuses (an access that is not aligned, or outside of
the arrays), what would not give the same bits everywhere (fused, flushed or approximate arithmetic), and races (a byte
that two threads write, or that one reads after another has written it).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
WARP = 32

KINDS: dict[str, np.dtype[Any]] = {f"f{n}": np.dtype(f"f{n // 8}") for n in (16, 32, 64)} | {"pred": np.dtype("u1")}
for _n in (8, 16, 32, 64):
    KINDS |= {f"s{_n}": np.dtype(f"i{_n // 8}"), f"u{_n}": np.dtype(f"u{_n // 8}"), f"b{_n}": np.dtype(f"u{_n // 8}")}

ARITHMETIC = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "max": np.maximum,
    "min": np.minimum,
}
COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
NO_ACCESS, READ, WRITE = 0, 1, 2


class Memory:
    """A piece of memory with arrays in it, and who has written each byte of it since :meth:`begin`."""

    def __init__(self, nbytes: int) -> None:
        whole = np.zeros(nbytes + 256, np.uint8)
        begin = -whole.ctypes.data % 256
        self.bytes = whole[begin : begin + nbytes]
        self.base = self.bytes.ctypes.data
        self.access = np.full(nbytes, NO_ACCESS, np.uint8)
        self.writer = np.full(nbytes, -1, np.int64)
        self._used = 0

    def array(self, length: int, dtype: Any, *, shift: int = 0, access: int = READ) -> NDArray[Any]:
        """Return an array of zeros that begins ``shift`` elements after a multiple of 256 bytes."""
        itemsize = np.dtype(dtype).itemsize
        begin = self._used + -self._used % 256 + shift * itemsize
        self._used = begin + length * itemsize
        assert self._used < len(self.bytes), "the memory is too small"
        self.access[begin : self._used] = access
        return self.bytes[begin : self._used].view(dtype)

    def begin(self) -> None:
        """Forget who has written."""
        self.writer[:] = -1

    def find(self, addresses: NDArray[np.int64], itemsize: int, count: int, access: int, text: str) -> Any:
        """Return the (threads, bytes) that an instruction reads or writes, as indices."""
        nbytes = itemsize * count
        if (addresses % nbytes).any():
            raise MemoryError(f"not aligned to {nbytes} bytes: {text}")
        places = addresses[:, None] - self.base + np.arange(nbytes)
        if (places < 0).any() or (places >= len(self.bytes)).any() or (self.access[places] < access).any():
            raise MemoryError(f"outside of the arrays that may be {'written' if access == WRITE else 'read'}: {text}")
        return places

    def load(self, addresses: NDArray[np.int64], kind: np.dtype[Any], count: int, threads: Any, text: str) -> Any:
        """Return (threads, count) numbers."""
        places = self.find(addresses, kind.itemsize, count, READ, text)
        writer = self.writer[places]
        if ((writer != -1) & (writer != threads[:, None])).any():
            raise RuntimeError(f"another thread has written it: {text}")
        return self.bytes[places].reshape(len(places), count, kind.itemsize).copy().view(kind)[..., 0]

    def store(self, addresses: NDArray[np.int64], numbers: Any, threads: Any, text: str) -> None:
        """Write (threads, count) numbers."""
        places = self.find(addresses, numbers.dtype.itemsize, numbers.shape[1], WRITE, text)
        again = self.writer[places] != -1
        if places.shape[1] == 1:  # a thread writes a byte once for each code in it
            again &= self.writer[places] != threads[:, None]
        if again.any() or len(np.unique(places)) < places.size:
            raise RuntimeError(f"it was written before: {text}")
        self.writer[places] = threads[:, None]
        self.bytes[places] = np.ascontiguousarray(numbers).view(np.uint8)


@dataclass(frozen=True)
class Instruction:
    """``@guard name.parts operands``."""

    guard: str
    name: str
    parts: tuple[str, ...]
    operands: tuple[str, ...]
    text: str

    @property
    def kind(self) -> str:
        return self.parts[-1]


@dataclass
class Program:
    """The instructions of a kernel, and the labels among them."""

    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> Program:
    """Parse the only kernel of a module."""
    program = Program()
    for line in text[text.index("{") + 1 :].splitlines():
        code = line.split("//")[0].strip().rstrip(";")
        code = re.sub(r"^\{ \.reg \.\w+ tmp; (.*); \}$", r"\1", code)  # an instruction with a register of its own
        if code.endswith(":"):
            program.labels[code[:-1]] = len(program.code)
        elif code and code[0] not in "{}.":
            match = re.fullmatch(r"(?:@(!?%p\d+)\s+)?(\S+)\s*(.*)", code)
            assert match, code
            guard, name, rest = match.groups()
            operands = re.findall(r"\{[^}]*\}|\[[^]]*\]|[^,\s]+", rest)
            head, *parts = name.split(".")
            program.code.append(Instruction(guard or "", head, tuple(parts), tuple(operands), code))
            check(program.code[-1])
    return program


def check(op: Instruction) -> None:
    """Refuse arithmetic whose result depends on the card, or on how the assembler contracts it."""
    floating = op.parts and op.kind[0] == "f" and op.kind != "f"
    if op.name == "fma" or (op.name == "mad" and floating) or {"ftz", "approx", "full"} & {*op.parts}:
        raise ArithmeticError(f"not the same everywhere: {op.text}")
    if op.name in ("add", "sub", "mul", "div", "sqrt") and floating and "rn" not in op.parts:
        raise ArithmeticError(f"may be contracted or rounded otherwise: {op.text}")


def unify_nan(x: Any) -> Any:
    """Return the results of an instruction as a card has them: each NaN is the one with all bits but the sign."""
    if x.dtype.kind == "f":
        bits = f"u{x.itemsize}"
        x = np.where(np.isnan(x), np.dtype(bits).type(2 ** (8 * x.itemsize - 1) - 1), x.view(bits)).view(x.dtype)
    return x


class ThreadBlock:
    """The threads of a block, with their registers; each is (threads,), 64 bits."""

    def __init__(self, program: Program, memory: Memory, parameters: list[int], block: int, blocks: int, n: int):
        self.program, self.memory, self.parameters, self.n = program, memory, parameters, n
        self.numbers = block * n + np.arange(n)
        numbers = {"%tid.x": np.arange(n), "%ntid.x": n, "%ctaid.x": block, "%nctaid.x": blocks}
        self.registers = {name: np.full(n, x, np.uint64) for name, x in numbers.items()}

    def run(self) -> None:
        """Run all threads to their end."""
        code = self.program.code
        waits = np.array([op.name in ("redux", "bar") for op in code] + [False])
        at = np.zeros(self.n, np.int64)
        with np.errstate(all="ignore"):
            while True:
                free = ~waits[at] & (at < len(code))
                here = int(at[free].min() if free.any() else at.min())
                if here >= len(code):
                    return
                active = at == here
                op = code[here]
                at[active] = here + 1
                if op.guard:
                    active &= self.registers[op.guard.lstrip("!")].astype(bool) ^ (op.guard[0] == "!")
                if op.name == "bra":
                    at[active] = self.program.labels[op.operands[0]]
                elif op.name == "ret":
                    at[active] = len(code)
                elif active.any():
                    self.step(op, active)

    def read(self, operand: str, kind: str, active: Any) -> Any:
        """Return an operand of the active threads as numbers of a kind: the low bits of a register, or a constant."""
        dtype = KINDS[kind]
        if operand.startswith("%"):
            bits = self.registers[operand][active]
        else:
            number = re.sub("^0[fd]", "0x", operand).rstrip("U")  # 0f3F800000 has the bits of a float32
            bits = np.full(active.sum(), int(number, 0) % 2**64, np.uint64)
        return bits.astype(f"u{dtype.itemsize}").view(dtype)

    def write(self, register: str, numbers: Any, active: Any) -> None:
        """Set a register of the active threads; signed integers are extended by their sign."""
        kept = self.registers.setdefault(register, np.zeros(self.n, np.uint64))
        if numbers.dtype.kind == "f":
            numbers = numbers.view(f"u{numbers.dtype.itemsize}")
        kept[active] = numbers.astype(np.int64 if numbers.dtype.kind == "i" else np.uint64).view(np.uint64)

    def step(self, op: Instruction, active: Any) -> None:
        method = getattr(self, f"do_{op.name}", None)
        if method is not None:
            method(op, active)
            return
        x, *others = (self.read(operand, op.kind, active) for operand in op.operands[1:])
        self.write(op.operands[0], unify_nan(self.compute(op, x, *others)), active)

    def compute(self, op: Instruction, x: Any, *others: Any) -> Any:
        """Return the result of an instruction with operands of one kind, which is also the result's."""
        if op.name == "mad" and op.parts[0] == "lo":
            return x * others[0] + others[1]
        if op.name == "bfe":
            first, count = others
            return (x >> first) & ((x.dtype.type(1) << count) - x.dtype.type(1))
        if op.name in ("abs", "neg"):  # of the sign's bit: also of NaN
            bits = x.view(f"u{x.itemsize}")
            sign = bits.dtype.type(1 << 8 * x.itemsize - 1)
            return bits & ~sign if op.name == "abs" else bits ^ sign
        if op.name == "sqrt":
            return np.sqrt(x)
        if op.name == "not":
            return x ^ 1 if op.kind == "pred" else ~x
        if op.name not in ARITHMETIC or (x.dtype.kind != "f" and {"wide", "hi"} & {*op.parts}):
            raise NotImplementedError(op.text)
        return ARITHMETIC[op.name](x, *others)

    # -- memory and moves -----------------------------------------------------------------------------------------

    def address(self, operand: str, active: Any) -> Any:
        match = re.fullmatch(r"\[(%rd\d+)(?:\+(-?\d+))?\]", operand)
        assert match, operand
        return self.read(match[1], "s64", active) + int(match[2] or 0)

    def width(self, op: Instruction) -> int:
        return next((int(part[1:]) for part in op.parts if re.fullmatch(r"v\d", part)), 1)

    def do_ld(self, op: Instruction, active: Any) -> None:
        if op.parts[0] == "param":
            number = int(op.operands[1].strip("[]").rsplit("_", 1)[1])
            self.write(op.operands[0], np.full(active.sum(), self.parameters[number], np.uint64), active)
            return
        assert op.parts[0] == "global", op.text
        threads, count = self.numbers[active], self.width(op)
        numbers = self.memory.load(self.address(op.operands[1], active), KINDS[op.kind], count, threads, op.text)
        for j, register in enumerate(op.operands[0].strip("{}").split(",")):
            self.write(register.strip(), numbers[:, j], active)

    def do_st(self, op: Instruction, active: Any) -> None:
        assert op.parts[0] == "global", op.text
        numbers = [self.read(x.strip(), op.kind, active) for x in op.operands[1].strip("{}").split(",")]
        address = self.address(op.operands[0], active)
        self.memory.store(address, np.stack(numbers, axis=1), self.numbers[active], op.text)

    def do_mov(self, op: Instruction, active: Any) -> None:
        goal, source = op.operands
        half = f"u{4 * KINDS[op.kind].itemsize}"
        if source.startswith("{"):
            low, high = (self.read(x.strip(), half, active).astype(np.uint64) for x in source.strip("{}").split(","))
            self.write(goal, low | high << np.uint64(8 * KINDS[half].itemsize), active)
        elif goal.startswith("{"):
            both = self.read(source, op.kind, active).astype(np.uint64)
            shift = np.uint64(8 * KINDS[half].itemsize)
            for register, bits in zip(goal.strip("{}").split(","), (both, both >> shift), strict=True):
                if register.strip() != "_":
                    self.write(register.strip(), bits.astype(KINDS[half]), active)
        else:
            self.write(goal, self.read(source, op.kind, active), active)

    # -- conversions, comparisons, bits -----------------------------------------------------------------------------

    def do_cvt(self, op: Instruction, active: Any) -> None:
        goal, source = op.parts[-2:]
        if goal == "f16x2":
            halves = (self.read(x, "f32", active).astype(np.float16) for x in op.operands[1:])
            high, low = (unify_nan(half).view(np.uint16) for half in halves)
            self.write(op.operands[0], low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(16), active)
            return
        x = self.read(op.operands[1], source, active)
        if source[0] == "f" and goal[0] != "f":  # towards zero, to the nearest where it does not fit; NaN is 0
            assert "rzi" in op.parts, op.text
            limits = np.iinfo(KINDS[goal])
            x = np.clip(np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0), limits.min, limits.max)
        elif source[0] == "f" and KINDS[goal].itemsize < x.itemsize:
            assert "rn" in op.parts, op.text
        self.write(op.operands[0], unify_nan(x.astype(KINDS[goal])), active)

    def do_setp(self, op: Instruction, active: Any) -> None:
        x, y = (self.read(operand, op.kind, active) for operand in op.operands[1:3])
        how = op.parts[0]
        if op.kind[0] != "f":
            result = COMPARISONS[how](x, y)
        else:
            unordered = np.isnan(x) | np.isnan(y)
            if how in ("num", "nan"):
                result = unordered ^ (how == "num")
            elif how.endswith("u") and how[:-1] in COMPARISONS:
                result = COMPARISONS[how[:-1]](x, y) | unordered
            else:
                result = COMPARISONS[how](x, y) & ~unordered
        self.write(op.operands[0], result, active)

    def do_selp(self, op: Instruction, active: Any) -> None:
        x, y = (self.read(operand, op.kind, active) for operand in op.operands[1:3])
        self.write(op.operands[0], np.where(self.registers[op.operands[3]][active].astype(bool), x, y), active)

    def do_shl(self, op: Instruction, active: Any) -> None:
        x, places = self.read(op.operands[1], op.kind, active), self.read(op.operands[2], "u32", active)
        assert (places < 8 * x.itemsize).all(), op.text
        shift = np.left_shift if op.name == "shl" else np.right_shift
        self.write(op.operands[0], shift(x, places.astype(x.dtype)), active)

    do_shr = do_shl

    def do_prmt(self, op: Instruction, active: Any) -> None:
        words = [np.ascontiguousarray(self.read(x, "u32", active)).view(np.uint8) for x in op.operands[1:3]]
        all_bytes = np.concatenate([word.reshape(-1, 4) for word in words], axis=1)
        selector, chosen = int(op.operands[3].rstrip("U"), 0), []
        for j in range(4):
            pick = selector >> 4 * j & 15
            byte = all_bytes[:, pick & 7]
            chosen.append(np.where(byte & 0x80, 0xFF, 0).astype(np.uint8) if pick & 8 else byte)
        self.write(op.operands[0], np.ascontiguousarray(np.stack(chosen, axis=1)).view(np.uint32)[:, 0], active)

    def do_mul(self, op: Instruction, active: Any) -> None:
        x, y = (self.read(operand, op.kind, active) for operand in op.operands[1:])
        if op.parts[0] == "wide":
            wide = np.dtype(f"{x.dtype.kind}{2 * x.itemsize}")
            x, y = x.astype(wide), y.astype(wide)
        elif x.dtype.kind != "f" and op.parts[0] != "lo":
            raise NotImplementedError(op.text)
        self.write(op.operands[0], unify_nan(x * y), active)

    # -- exchange in a warp -----------------------------------------------------------------------------------------

    def whole_warps(self, op: Instruction, active: Any) -> Any:
        together = active.reshape(-1, WARP)
        if not (together.all(axis=1) | ~together.any(axis=1)).all():
            raise RuntimeError(f"only a part of a warp is here: {op.text}")
        return together.any(axis=1)

    def do_redux(self, op: Instruction, active: Any) -> None:
        assert op.parts == ("sync", "max", "s32"), op.text
        self.whole_warps(op, active)
        x = self.read(op.operands[1], "s32", active).reshape(-1, WARP)
        assert (self.read(op.operands[2], "u32", active) == 2**32 - 1).all(), op.text
        self.write(op.operands[0], np.repeat(x.max(axis=1), WARP), active)

    def do_bar(self, op: Instruction, active: Any) -> None:
        assert op.parts == ("warp", "sync"), op.text
        self.whole_warps(op, active)


def launch(text: str, memory: Memory, parameters: list[int], blocks: int, threads: int) -> None:
    """Run a kernel: one block of threads after the other."""
    program = parse(text)
    memory.begin()
    for block in range(blocks):
        ThreadBlock(program, memory, parameters, block, blocks, threads).run()
