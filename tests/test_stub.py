"""The stub of the C module against api.h, of which it is the Python side."""

import ast
import re
from pathlib import Path

from kqnative import _native, journal, stats

ROOT = Path(__file__).parent.parent
API = re.sub(r"/\*.*?\*/", "", (ROOT / "csrc" / "api.h").read_text(), flags=re.DOTALL)


def stub_class() -> ast.ClassDef:
    """The class of the stub that is lib."""
    tree = ast.parse((ROOT / "kqnative" / "_kq.pyi").read_text())
    return next(node for node in tree.body if isinstance(node, ast.ClassDef))


def test_stub_has_every_enumerator_in_order() -> None:
    """The stub's constants are api.h's enumerators, and no others."""
    enums = "".join(re.findall(r"enum \w+ \{(.*?)\};", API, flags=re.DOTALL))
    constants = [
        node.target.id
        for node in stub_class().body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    assert constants == re.findall(r"\bKQN_\w+(?=\s*[,=]|\s*$)", enums, flags=re.MULTILINE)


def test_stub_has_every_function_with_as_many_parameters() -> None:
    """The stub's functions are api.h's, in its order, with as many parameters each."""
    declared = re.findall(r"^[\w ]+?\**(kqn_\w+)\(([^;{]*)\);", API, flags=re.MULTILINE | re.DOTALL)
    counts = [(name, 0 if text == "void" else text.count(",") + 1) for name, text in declared]
    functions = [node for node in stub_class().body if isinstance(node, ast.FunctionDef)]
    assert [(one.name, len(one.args.posonlyargs + one.args.args) - 1) for one in functions] == counts
    assert len(counts) > 10


def test_stub_describes_the_module_that_was_built() -> None:
    """Every name of the stub is there in the built module, and the module has no other."""
    names = {getattr(node, "name", None) or node.target.id for node in stub_class().body}  # type: ignore[attr-defined]
    assert set(dir(_native.lib)) == names
    assert callable(_native._kq.run_loop)


def test_python_s_words_are_those_of_the_enums() -> None:
    """Reasons and kinds of records have the same names and numbers in Python and in C."""
    for words, prefix in ((stats.REASONS, "REASON"), (journal.KINDS, "RECORD")):
        for number, word in enumerate(words):
            assert getattr(_native.lib, f"KQN_{prefix}_{word.upper()}") == number
    assert len(stats.REASONS) == _native.lib.KQN_REASON_COUNT
