"""A macOS library in the memory of an emulated processor: lief takes the file apart, unicorn executes it.

Each imported function is bound to an address of its own where nothing lies. When the processor goes there, it stops
with a fault; whoever answers the import does so here, in Python, and the processor goes on behind the call. As that
happens outside the emulation, the answer may call into the library itself, as another thread of a process might.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lief
import unicorn as typed_unicorn
from unicorn import arm64_const, x86_const

unicorn: Any = typed_unicorn  # whose types leave out what it exports
PAGE = 0x1000
READ_WRITE = unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE
READ_EXECUTE = unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC
IMAGE = 0x1_0000_0000
STACK_BEGIN, STACK_END = 0x2_0000_0000, 0x2_0010_0000
STACK_GUARD = 0x3_0000_0000  # where libSystem keeps what a function's end must find behind its arrays
IMPORTS = 0x7_0000_0000  # nothing is mapped from here on
IMPORT_BYTES = 16
CALLER = 0x8_0000_0000  # where a function returns to that was called from here
NEVER = 0x9_0000_0000
LONGEST_STRETCH_US = 10_000_000  # without any import


@dataclass(frozen=True, slots=True)
class Processor:
    name: str
    arguments: tuple[int, ...]  # the registers of integers and pointers, in order
    result: int
    stack: int
    counter: int
    link: int | None  # None: a call leaves its return address on the stack
    variable_on_stack: bool  # where arguments behind "..." are: only Apple's arm64 has them all there


ARM64 = Processor(
    name="arm64",
    arguments=tuple(getattr(arm64_const, f"UC_ARM64_REG_X{i}") for i in range(8)),
    result=arm64_const.UC_ARM64_REG_X0,
    stack=arm64_const.UC_ARM64_REG_SP,
    counter=arm64_const.UC_ARM64_REG_PC,
    link=arm64_const.UC_ARM64_REG_LR,
    variable_on_stack=True,
)
X86_64 = Processor(
    name="x86_64",
    arguments=tuple(getattr(x86_const, f"UC_X86_REG_{name}") for name in ("RDI", "RSI", "RDX", "RCX", "R8", "R9")),
    result=x86_const.UC_X86_REG_RAX,
    stack=x86_const.UC_X86_REG_RSP,
    counter=x86_const.UC_X86_REG_RIP,
    link=None,
    variable_on_stack=False,
)


def signed(word: int) -> int:
    """The int in the lower half of a register."""
    low = word & 0xFFFF_FFFF
    return low - (1 << 32) if low >> 31 else low


class Arguments:
    """What a call of an import was given, to be taken in order."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._registers = iter(machine.processor.arguments)
        self._stack = machine.register(machine.processor.stack)

    def word(self) -> int:
        """The next argument, a pointer or a size."""
        return self._machine.register(next(self._registers))

    def number(self) -> int:
        """The next argument, an int."""
        return signed(self.word())

    def variable_word(self) -> int:
        """The next argument behind those that have a name."""
        if not self._machine.processor.variable_on_stack:
            return self.word()
        self._stack += 8
        return self._machine.read_word(self._stack - 8)


class Machine:
    """Raises AssertionError when the library does what would crash a process."""

    answer: Callable[[str, Arguments], int]  # set by whoever answers the imports

    def __init__(self, library: Path) -> None:
        fat = lief.MachO.parse(str(library))  # kept while its part is in use, which does not keep it
        binary = fat.at(0) if fat is not None and fat.size == 1 else None
        if binary is None:
            raise AssertionError(f"{library} is not a Mach-O file of one architecture")
        if binary.header.cpu_type == lief.MachO.Header.CPU_TYPE.ARM64:
            self.processor = ARM64
            # unicorn's default has none of the atomic instructions that the first Mac with arm64 had.
            self._cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, arm64_const.UC_CPU_ARM64_MAX)
        else:
            self.processor = X86_64
            self._cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._imports: list[str] = []
        self._code = IMAGE, 0
        self._functions = {
            str(symbol.name).removeprefix("_"): IMAGE + symbol.value
            for symbol in binary.symbols
            if symbol.type == lief.MachO.Symbol.TYPE.SECTION
        }
        self._load(binary)
        self.map(STACK_GUARD, PAGE)
        self.write_word(STACK_GUARD, 0x0123_4567_89AB_CD00)
        self.bind(binary)
        self.map(STACK_BEGIN, STACK_END - STACK_BEGIN)
        self._cpu.reg_write(self.processor.stack, STACK_END - PAGE)

    def _load(self, binary: lief.MachO.Binary) -> None:
        for segment in binary.segments:
            if segment.name != "__LINKEDIT":
                place = IMAGE + segment.virtual_address
                is_code = segment.name == "__TEXT"
                if is_code:
                    self._code = place, segment.virtual_size
                self.map(place, segment.virtual_size, READ_EXECUTE if is_code else READ_WRITE)
                self.write(place, bytes(segment.content)[: segment.virtual_size])

    def bind(self, binary: lief.MachO.Binary) -> None:
        """Tells the image where it lies and where its imports are, as dyld does."""
        bound = set()
        for binding in binary.bindings:
            name = str(binding.symbol.name if binding.symbol else None).removeprefix("_")
            if name not in self._imports:
                self._imports.append(name)
            bound.add(binding.address)
            place = IMPORTS + IMPORT_BYTES * self._imports.index(name)
            self.write_word(IMAGE + binding.address, STACK_GUARD if name == "__stack_chk_guard" else place)
        for relocation in binary.relocations:
            if relocation.origin == lief.MachO.Relocation.ORIGIN.CHAINED_FIXUPS:
                raise AssertionError("the library has chained fixups, which nobody here can read")
            place = IMAGE + relocation.address
            if relocation.address not in bound:
                self.write_word(place, IMAGE + self.read_word(place))

    def replace_code(self, old: bytes, new: bytes) -> int:
        """Changes instructions, as if the library had been compiled so; returns at how many places."""
        place, size = self._code
        code = self.read(place, size)
        self.write(place, code.replace(old, new))
        return code.count(old)

    def map(self, address: int, size: int, protection: int = READ_WRITE) -> None:
        """Puts memory there, in whole pages."""
        self._cpu.mem_map(address, whole_pages(size), protection)

    def unmap(self, address: int, size: int) -> None:
        self._cpu.mem_unmap(address, whole_pages(size))

    def read(self, address: int, size: int) -> bytes:
        return bytes(self._cpu.mem_read(address, size))

    def read_word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def read_text(self, address: int) -> bytes:
        """The bytes up to the next 0."""
        text = bytearray()
        while byte := self.read(address + len(text), 1)[0]:
            text.append(byte)
        return bytes(text)

    def write(self, address: int, data: bytes) -> None:
        self._cpu.mem_write(address, data)

    def write_word(self, address: int, word: int) -> None:
        self.write(address, word.to_bytes(8, "little"))

    def register(self, register: int) -> int:
        return int(self._cpu.reg_read(register))

    def call(self, function: str | int, *arguments: int) -> int:
        """Calls a function of the library by its name or address; returns the int that it returns."""
        if isinstance(function, str) and function not in self._functions:
            raise AssertionError(f"{function} is not in the library's symbol table")
        address = self._functions[function] if isinstance(function, str) else function
        for register, argument in zip(self.processor.arguments, arguments, strict=False):
            self._cpu.reg_write(register, argument)
        self._push_return(CALLER)
        while (address := self._run_from(address)) != CALLER:
            address = self._call_import(address)
        return signed(self.register(self.processor.result))

    def _run_from(self, address: int) -> int:
        """Executes until the processor goes where nothing is, and returns that address."""
        try:
            self._cpu.emu_start(address, NEVER, timeout=LONGEST_STRETCH_US)
        except unicorn.UcError as error:
            at = self.register(self.processor.counter)
            if error.errno == unicorn.UC_ERR_FETCH_UNMAPPED and at >= IMPORTS:
                return at
            raise AssertionError(f"{self._name_of(at)}: {error}") from error
        at = self.register(self.processor.counter)
        raise AssertionError(f"{self._name_of(at)}: the processor does not come back")

    def _call_import(self, address: int) -> int:
        """Answers the import, and returns where the library goes on."""
        back = self._pop_return()
        if self.register(self.processor.stack) % 16 != 0:
            raise AssertionError(f"{self._name_of(back)}: the stack is not aligned at a call")
        name = self._imports[(address - IMPORTS) // IMPORT_BYTES]
        try:
            result = self.answer(name, Arguments(self))
        except unicorn.UcError as error:
            raise AssertionError(f"{self._name_of(back)}: {name}() is to use memory that is not there") from error
        self._cpu.reg_write(self.processor.result, result & 0xFFFF_FFFF_FFFF_FFFF)
        return back

    def _push_return(self, address: int) -> None:
        if self.processor.link is not None:
            self._cpu.reg_write(self.processor.link, address)
            return
        stack = self.register(self.processor.stack) - 8
        self._cpu.reg_write(self.processor.stack, stack)
        self.write_word(stack, address)

    def _pop_return(self) -> int:
        if self.processor.link is not None:
            return self.register(self.processor.link)
        stack = self.register(self.processor.stack)
        self._cpu.reg_write(self.processor.stack, stack + 8)
        return self.read_word(stack)

    def _name_of(self, address: int) -> str:
        """The function that holds this address, for the words of a failure."""
        places = [(place, name) for name, place in self._functions.items() if place <= address < IMPORTS]
        if not places:
            return hex(address)
        place, name = max(places)
        return f"{name}+{address - place:#x}"


def whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE
