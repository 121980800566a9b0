"""The checks of `make macos-wheels`: each passes what is right, and says what is wrong with what is not.

They run where that command has installed its packages, as in .ci/run; elsewhere they are skipped.
"""

import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import REQUIRE_TOOLS

# First: another package of the test group is called build too.
sys.path.insert(0, str(Path(__file__).parent / "macos"))
try:
    import build
    import inspect_wheel as checks
    from cross import CSRC, FLAGS, ROOT, CheckError, Target, zig_cc
    from inspect_wheel import Wheel
    from macos import __main__ as command
except ModuleNotFoundError as absent:
    REASON = f"needs {absent.name}, which make macos-wheels installs"
    if REQUIRE_TOOLS:
        pytest.fail(REASON, pytrace=False)
    pytest.skip(REASON, allow_module_level=True)

pytestmark = pytest.mark.timeout(180)  # zig makes its libraries for a target once

ARM, INTEL = build.MACS
TAGS = {target.triple: f"cp311-abi3-{build.platform_of(target)}" for target in build.MACS}

# As small as a module can be that every check passes.
GOOD = """
#include <sys/types.h>
#include <sys/event.h>
#include <sys/socket.h>
#include <unistd.h>

void *PyList_New(long);
void *PyInit__kq(void);

long kqn_use(int fd, char *bytes)
{
    struct kevent event;
    return kevent(kqueue(), 0, 0, &event, 1, 0) + accept(fd, 0, 0) + read(fd, bytes, 1) + write(fd, bytes, 1);
}

__attribute__((visibility("default"))) void *PyInit__kq(void)
{
    char byte = 0;
    return kqn_use(0, &byte) ? PyList_New(0) : 0;
}
"""
CALL = "PyList_New(0)"
ARM64_RETURN = (0xD65F03C0).to_bytes(4, "little")
METADATA = "Metadata-Version: 2.4\nName: kqnative\nVersion: 0\n"


def make_module(
    folder: Path, code: str = GOOD, target: Target = ARM, link: list[str] | None = None, triple: str = ""
) -> Path:
    """The code as a module for this target, or for another triple."""
    source, module = folder / "module.c", folder / "_kq.abi3.so"
    source.write_text(code)
    made_for = Target(triple, target.processor) if triple else target
    flags = ["-std=gnu11", *build.CFLAGS, "-fno-inline"]
    zig_cc(made_for, *flags, *(build.LINK if link is None else link), str(source), "-o", str(module))
    return module


def make_wheel(folder: Path, tag: str, files: dict[str, str | bytes], metadata: str = METADATA) -> Path:
    """A wheel with these files and as much information as a wheel must have."""
    path = folder / f"kqnative-0-{tag}.whl"
    wheel = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: false\nTag: {tag}\n"
    information = {"WHEEL": wheel, "METADATA": metadata, "RECORD": ""}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name, content in information.items():
            archive.writestr(f"kqnative-0.dist-info/{name}", content)
    return path


def wheel_of(module: Path, target: Target = ARM) -> Wheel:
    """The module in a wheel of its target."""
    files: dict[str, str | bytes] = {"kqnative/_kq.abi3.so": module.read_bytes()}
    return Wheel(make_wheel(module.parent, TAGS[target.triple], files), module, target)


def words_of(check: Callable[..., object], *arguments: object) -> str:
    """What the check says against it; fails if it says nothing."""
    with pytest.raises(CheckError) as failure:
        check(*arguments)
    return str(failure.value)


def changed(old: str, new: str) -> str:
    """The good module with another piece of code."""
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize("target", build.MACS, ids=lambda target: target.triple)
def test_a_good_module_passes_every_check_of_its_bytes(target: Target, tmp_path: Path) -> None:
    """No check fails for another reason than the one that its test gives it."""
    wheel = wheel_of(make_module(tmp_path, target=target), target)
    for check in (
        checks.check_system,
        checks.check_links,
        checks.check_paths,
        checks.check_imports,
        checks.check_calls,
        checks.check_exports,
        checks.check_signature,
        checks.check_abi3,
        checks.check_install,
    ):
        assert check(wheel)


@pytest.mark.parametrize("target", build.MACS, ids=lambda target: target.triple)
def test_a_misspelt_call_is_found(target: Target, tmp_path: Path) -> None:
    """The linker takes kqeueu() for one of Python's functions; the check does not."""
    code = changed("kevent(kqueue()", "kevent(kqeueu()").replace("void *PyInit", "int kqeueu(void);\nvoid *PyInit", 1)
    words = words_of(checks.check_imports, wheel_of(make_module(tmp_path, code, target), target))
    assert words == "neither in libSystem nor in the stable ABI of Python 3.11: kqeueu"


@pytest.mark.parametrize("name", ["_PyDict_NewPresized", "PyErr_GetRaisedException"])
def test_a_call_outside_the_stable_abi_is_found(name: str, tmp_path: Path) -> None:
    """A private function and one that came after 3.11 are named, by our check and by abi3audit."""
    wheel = wheel_of(make_module(tmp_path, GOOD.replace("PyList_New", name)))
    assert f"Python 3.11: {name}" in words_of(checks.check_imports, wheel)
    assert name in words_of(checks.check_abi3, wheel)


def compile_as_setuptools(target: Target, folder: Path, name: str, code: str) -> str:
    """Runs the script that setuptools takes for a compiler."""
    source = folder / name
    source.write_text(code)
    compiler = build.write_compiler(target, folder)
    environment = build.build_environment(target, compiler, folder / "objects")
    return build.run([compiler, *build.CFLAGS, "-c", source, "-o", folder / "object.o"], folder, environment)


def test_a_call_newer_than_the_oldest_system_is_found(tmp_path: Path) -> None:
    """preadv() came with macOS 11: the arm64 wheel may call it, and the x86_64 one may not."""
    code = "#include <sys/uio.h>\nlong f(struct iovec *v);\nlong f(struct iovec *v) { return preadv(0, v, 1, 0); }\n"
    compile_as_setuptools(ARM, tmp_path, "new.c", code)
    words = words_of(compile_as_setuptools, INTEL, tmp_path, "new.c", code)
    assert "'preadv' is only available on macOS 11.0 or newer" in words
    words = words_of(compile_as_setuptools, INTEL, tmp_path, "kqnative._kq.c", code)
    assert "'preadv' is only available on macOS 11.0 or newer" in words


def test_a_warning_in_our_c_is_an_error_and_in_generated_c_is_none(tmp_path: Path) -> None:
    """An int made of a long fails in csrc, and not in what cffi wrote."""
    code = "int f(long n);\nint f(long n) { return n; }\n"
    assert "implicit conversion loses integer precision" in words_of(
        compile_as_setuptools, ARM, tmp_path, "ours.c", code
    )
    compile_as_setuptools(ARM, tmp_path, "kqnative._kq.c", code)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What build.py makes lies apart from what `make macos-wheels` made."""
    monkeypatch.setattr(build, "OUT", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("target", [*build.MACS, *build.BSDS], ids=lambda target: target.triple)
def test_a_wrong_layout_is_found(target: Target) -> None:
    """A struct kevent of another size, and a field elsewhere, are errors on each system."""
    facts = build.layout_facts(target)
    size = facts["sizeof(struct kevent)"]
    build.check_layout(target, facts)
    words = words_of(build.check_layout, target, facts | {"sizeof(struct kevent)": size + 8})
    assert f"sizeof(struct kevent) is not {size + 8}" in words
    words = words_of(build.check_layout, target, facts | {"offsetof(struct kevent, udata)": 0})
    assert "offsetof(struct kevent, udata) is not 0" in words


@pytest.mark.usefixtures("own_folder")
def test_a_wrong_number_is_found() -> None:
    """FreeBSD's EVFILT_USER is not Darwin's."""
    assert "EVFILT_USER is not -11" in words_of(build.check_layout, ARM, {"EVFILT_USER": -11})


@pytest.mark.parametrize("target", [*build.MACS, *build.BSDS], ids=lambda target: target.triple)
def test_a_field_that_a_system_lacks_is_found(target: Target, tmp_path: Path) -> None:
    """kqueue.c with a field that no struct kevent has compiles nowhere."""
    code = (CSRC / "poller" / "kqueue.c").read_text()
    assert "change.fflags = NOTE_TRIGGER" in code
    source = tmp_path / "kqueue.c"
    source.write_text(code.replace("change.fflags = NOTE_TRIGGER", "change.flag = NOTE_TRIGGER"))
    words = words_of(zig_cc, target, *FLAGS, "-c", str(source), "-o", str(tmp_path / "kqueue.o"))
    assert "no member named 'flag' in 'struct kevent'" in words


def test_an_export_too_many_is_found(tmp_path: Path) -> None:
    """A function of ours that is not hidden is named."""
    code = changed("long kqn_use", '__attribute__((visibility("default"))) long kqn_use')
    words = words_of(checks.check_exports, wheel_of(make_module(tmp_path, code)))
    assert words == "exports: ['_PyInit__kq', '_kqn_use'], not ['_PyInit__kq']"


def test_a_module_without_our_names_is_found(tmp_path: Path) -> None:
    """The emulator needs the symbol table, so a stripped wheel must not pass."""
    code = GOOD.replace("kqn_use", "use")
    assert "it is stripped" in words_of(checks.check_exports, wheel_of(make_module(tmp_path, code)))


def test_another_oldest_system_than_the_tag_s_is_found(tmp_path: Path) -> None:
    """A module for macOS 12 does not pass for one for 11."""
    wheel = wheel_of(make_module(tmp_path, triple="aarch64-macos.12.0"))
    assert words_of(checks.check_system, wheel) == "oldest macOS: (12, 0), not (11, 0)"


def test_another_processor_than_the_tag_s_is_found(tmp_path: Path) -> None:
    """Code for Intel does not pass in an arm64 wheel."""
    wheel = wheel_of(make_module(tmp_path, target=INTEL), ARM)
    assert words_of(checks.check_system, wheel) == "processor: X86_64, not ARM64"


def test_another_tag_inside_is_found(tmp_path: Path) -> None:
    """The tag in the metadata counts as that in the name does."""
    module = make_module(tmp_path)
    path = make_wheel(tmp_path, "cp311-abi3-macosx_12_0_arm64", {}).rename(
        tmp_path / f"kqnative-0-{TAGS[ARM.triple]}.whl"
    )
    words = words_of(checks.check_system, Wheel(path, module, ARM))
    assert words.startswith("tags in the metadata: ['cp311-abi3-macosx_12_0_arm64'], not")


def test_a_build_path_inside_is_found(tmp_path: Path) -> None:
    """As a string, or as the name that the linker takes when it is told none."""
    code = changed(CALL, f'PyList_New((long)"{ROOT}/csrc/x.c")')
    words = words_of(checks.check_paths, wheel_of(make_module(tmp_path, code)))
    assert words == f"it holds {ROOT}/csrc/x.c"
    nameless = make_module(tmp_path, link=["-shared", "-Wl,-undefined,dynamic_lookup"])
    assert words_of(checks.check_paths, wheel_of(nameless)).startswith("install name: ")


def test_a_changed_byte_breaks_the_signature(tmp_path: Path) -> None:
    """One bit of the first function, or of the last byte that is signed, and its page is named."""
    module = make_module(tmp_path)
    signature = checks.read_module(module).signature
    assert signature
    content = module.read_bytes()
    last = checks.check_signature(wheel_of(module)).split()[0]
    for at, page in ((content.index(ARM64_RETURN), 0), (signature[0] - 1, int(last) - 1)):
        module.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        words = words_of(checks.check_signature, wheel_of(module))
        assert words == f"not as signed: page {page} of {last}"


def test_an_unsigned_arm64_module_is_found(tmp_path: Path) -> None:
    """Only Intel Macs run what is not signed."""
    unsigned = make_module(tmp_path, target=INTEL)
    assert "it is not signed" in words_of(checks.check_signature, wheel_of(unsigned, ARM))
    assert checks.check_signature(wheel_of(unsigned, INTEL)) == "none, and none needed"


def test_a_second_library_and_a_search_path_are_found(tmp_path: Path) -> None:
    """A module that wants more than libSystem would not load on another Mac."""
    other = tmp_path / "libother.dylib"
    (tmp_path / "other.c").write_text("int other(void);\nint other(void) { return 1; }\n")
    zig_cc(ARM, "-shared", "-O2", str(tmp_path / "other.c"), "-Wl,-install_name,/opt/libother.dylib", "-o", str(other))
    code = changed(CALL, "PyList_New(other())").replace("void *PyInit", "int other(void);\nvoid *PyInit", 1)
    words = words_of(checks.check_links, wheel_of(make_module(tmp_path, code, link=[*build.LINK, str(other)])))
    assert "/opt/libother.dylib" in words
    words = words_of(checks.check_links, wheel_of(make_module(tmp_path, link=[*build.LINK, "-Wl,-rpath,/opt/lib"])))
    assert words == "folders to search: ['/opt/lib'], not []"


def test_a_call_that_is_no_longer_made_is_found(tmp_path: Path) -> None:
    """A loop without kevent() is not ours."""
    code = changed("kevent(kqueue(), 0, 0, &event, 1, 0)", "(event.data = kqueue())")
    words = words_of(checks.check_calls, wheel_of(make_module(tmp_path, code)))
    assert words == "not imported from libSystem: kevent"


def package_files() -> dict[str, str | bytes]:
    """What a wheel of this tree holds, but for the module's bytes."""
    tree = [path for path in (ROOT / "kqnative").rglob("*") if path.suffix in (".py", ".pyi", ".typed")]
    files: dict[str, str | bytes] = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in tree}
    information = dict.fromkeys(("entry_points.txt", "licenses/LICENSE", "top_level.txt"), "")
    return files | {"kqnative/_kq.abi3.so": b""} | {f"kqnative-0.dist-info/{name}": "" for name in information}


@pytest.mark.parametrize("name", ["kqnative/py.typed", "kqnative/_kq.pyi", "kqnative/load/__init__.py"])
def test_a_file_that_the_wheel_lacks_is_found(name: str, tmp_path: Path) -> None:
    """Without a type stub, the marker or a package, the wheel is not whole."""
    files = package_files()
    del files[name]
    path = make_wheel(tmp_path, TAGS[ARM.triple], files)
    assert words_of(checks.check_contents, Wheel(path, path, ARM)) == f"missing: ['{name}'], not []"


@pytest.mark.parametrize("name", ["kqnative/_kq.c", "kqnative/api.h", "tests/test_c.py"])
def test_a_file_too_many_is_found(name: str, tmp_path: Path) -> None:
    """No source and no test is in the wheel."""
    path = make_wheel(tmp_path, TAGS[ARM.triple], package_files() | {name: ""})
    assert words_of(checks.check_contents, Wheel(path, path, ARM)) == f"too many: ['{name}'], not []"


def test_a_wheel_that_lists_other_files_than_it_has_is_found(tmp_path: Path) -> None:
    """check-wheel-contents reads RECORD, which is empty here."""
    path = make_wheel(tmp_path, TAGS[ARM.triple], package_files())
    assert "RECORD" in words_of(checks.check_contents, Wheel(path, path, ARM))


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("cp311-abi3-macosx_12_0_arm64", "refused on macOS 11_0 arm64 Python 3.11"),
        ("cp312-abi3-macosx_11_0_arm64", "refused on macOS 14_0 arm64 Python 3.11"),
        ("cp311-cp311-macosx_11_0_arm64", "refused on macOS 11_0 arm64 Python 3.12"),
        ("cp311-abi3-macosx_11_0_universal2", "accepted on macOS 14_0 x86_64 Python 3.11"),
        ("cp310-abi3-macosx_11_0_arm64", "accepted on macOS 14_0 arm64 Python 3.10"),
        ("py3-none-macosx_11_0_arm64", "accepted on macOS 14_0 arm64 Python cp314t"),
    ],
)
def test_pip_taking_it_elsewhere_is_found(tag: str, words: str, tmp_path: Path) -> None:
    """A wheel with a tag that says more or less than ours is refused or accepted where it should not be."""
    path = make_wheel(tmp_path, tag, {})
    assert words in words_of(checks.check_install, Wheel(path, path, ARM))


def test_metadata_that_pypi_refuses_are_found(tmp_path: Path) -> None:
    """A wheel without a readme does not pass."""
    path = make_wheel(tmp_path, TAGS[ARM.triple], {})
    assert "long_description" in words_of(checks.check_metadata, path)


def test_what_a_second_build_changes_is_named(tmp_path: Path) -> None:
    """Two wheels that differ in one file are not the same, nor are two that differ in nothing but times."""
    wheels = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        wheels.append(make_wheel(tmp_path / str(number), "any", {"same": "", "time": str(number)}))
    assert words_of(build.compare_wheels, *wheels) == "built again, it differs in time"
    later = tmp_path / "later.whl"
    with zipfile.ZipFile(wheels[0]) as archive, zipfile.ZipFile(later, "w") as copy:
        for name in archive.namelist():
            copy.writestr(zipfile.ZipInfo(name), archive.read(name))
    assert words_of(build.compare_wheels, wheels[0], later) == "built again, it differs in the times of its files alone"


@pytest.mark.parametrize("target", build.BSDS, ids=lambda target: target.triple)
def test_a_module_that_a_bsd_could_not_load_is_found(target: Target, own_folder: Path) -> None:
    """The linker names a call that neither libc nor the stable ABI has, and we an export too many."""
    module, more = own_folder / "module.c", own_folder / "more.c"
    module.write_text(
        "void *PyList_New(long);\nvoid *kqn_list(void);\nvoid *kqn_list(void) { return PyList_New(0); }\n"
    )
    shown = '__attribute__((visibility("default"))) int {}(void);\nint {}(void) {{ return {}; }}\n'
    more.write_text(shown.format("PyInit__kq", "PyInit__kq", 0))
    assert build.link_module(target, module, [more])
    more.write_text("int kqeueu(void);\n" + shown.format("PyInit__kq", "PyInit__kq", "kqeueu()"))
    assert "undefined symbol: kqeueu" in words_of(build.link_module, target, module, [more])
    more.write_text(shown.format("kqn_open", "kqn_open", 0))
    assert words_of(build.link_module, target, module, [more]) == "it exports kqn_open, not PyInit__kq alone"


def test_a_failure_is_printed_with_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a check raises, its row says FAILED, the words follow, the others are run, and all has failed."""

    def fails(failure: Exception) -> str:
        raise failure

    with ThreadPoolExecutor(1) as pool:
        table = command.Table(pool)
        for failure in (CheckError("wrong tag"), AssertionError("EVFILT_READ is -1"), ImportError("no unicorn")):
            table.add("wheel", "check", fails, failure)
        table.add("wheel", "last", str, "fine")
        table.show()
    assert not table.passed
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[3] for line in lines[0:5:2]] == ["FAILED"] * 3
    assert lines[1:6:2] == ["wrong tag", "EVFILT_READ is -1", "ImportError: no unicorn"]
    assert lines[6].split()[3:] == ["ok", "fine"]


def test_runs_that_differ_are_found() -> None:
    """Both processors must give the same transcript: the first line that differs is shown, or the one too many."""
    assert command.compare_transcripts({"ARM64": ["accept"], "X86_64": ["accept"]}) == "1 lines"
    words = words_of(command.compare_transcripts, {"ARM64": ["accept"], "X86_64": ["read"]})
    assert words == "line 1 differs\nARM64: accept\nX86_64: read"
    assert words_of(command.compare_transcripts, {"ARM64": [], "X86_64": ["read"]}) == "ARM64 has 0 lines, X86_64 1"
