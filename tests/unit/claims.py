"""Faults that a page of the book must not have, found in its notebook.

Each function takes a notebook and returns what is wrong with it, one sentence per fault.  The
rules stand in CONTRIBUTING.md; ``test_claims.py`` applies them to every notebook of the book.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bs4 import BeautifulSoup
from nbformat import NotebookNode

from pvsbook_book import rerun
from pvsbook_book.exercises import check

ROOT = Path(__file__).resolve().parents[2]
DATA_SETS = tuple(p.stem for p in sorted((ROOT / "data_manifest").glob("*.yml")))

DIRECTION = (
    r"rises?|rising|falls?|falling|grows?|growing|shrinks?|drops?|raises?|lowers?|increases?|"
    r"decreases?|lifts?|larger|smaller|higher|lower|wider|narrower|stronger|weaker|fewer"
)
OUTCOME = (
    r"survives?|vanish(?:es)?|disappears?|beats?|outperforms?|improves?|worsens?|degrades?|"
    r"doubles|doubled|triples|tripled|(?:two|three|four|five|ten)-?fold|unbiased|unchanged|"
    r"identical|insensitive|accurate|outweighs?|dominates?|no effect|explodes?|collapses?|"
    r"plummets?|depends? only|reduced|elevated|accumulates?|"
    r"(?:error|bias|loss|effect|scatter)s? (?:is|are) (?:small|negligible)"
)
RESULT = re.compile(
    rf"\b({DIRECTION}|{OUTCOME}|better|worse|closer|best|worst|"
    r"too (?:small|large|high|low|wide|narrow|few|many|much|little|strong|weak)|"
    r"twice|half|double|thirds?|times (?:as|more|less)|hardly|barely|nearly|almost|"
    r"together|alike|(?<!at )the same|equals?|order (?:of|is)|every|(?<!at )all|none|never|always|"
    r"repairs?|helps?|(?:is|are) right|agrees?)\b",
    re.IGNORECASE,
)
OF_A_METHOD = re.compile(
    r"\b(always|never|whatever|in general|on average|"
    r"no (?:frame|method|filter|threshold|choice|radius|order)|"
    r"(?:every|any|all) (?:method|filter|frame|scan|head|phantom|seed|repetition)s?)\b",
    re.IGNORECASE,
)
NOT_A_RESULT = re.compile(
    r"\b(would|(?:could|may|might)(?! (?:expect|see)\b)|can(?! (?:be )?seen?\b)|cannot|must|"
    r"should|if|suppose|by definition|by construction)\b|CITED",
    re.IGNORECASE,
)
SPECIFIC = re.compile(
    r"\b(in (?:this|these|our|that) (?:phantom|model|simulation|head)s?|here)\b", re.I
)
IN_A_MODEL = re.compile(
    r"\bin (?:this|these|our|a|the) (?:\w+ )?(?:phantom|model|simulation)s?\b|CITED", re.I
)
REPEATS = re.compile(r"^(?:N_)?(SEEDS|HEADS|REPEATS|REPETITIONS|DRAWS|STUDIES)$")
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
PUBLISHED = re.compile(
    rf"\b(?!{MONTHS})[A-Z][\w-]+(?: (?:et al\.?|and colleagues))?,? \(?(?:19|20)\d\d\b"
)
SIMULATED = re.compile(r"(?<!\bnot )simulated|^diagram|\ba diagram", re.IGNORECASE)
IMPOSSIBLE = re.compile(
    r"(?<![\w-])(?:(?i:[-+]?inf(?:inity)?|nan|nat)|<NA>|&lt;NA&gt;|∞)(?![\w-])"
)
P_ZERO = re.compile(
    r"(?<![\w.])(?i:p(?:[ _-]?val(?:ue)?s?|[_-]\w+| ?\([^)\n]*\))?)[ \t]*[=:<]?[ \t]*"
    r"(?:np\.float64\()?(?:0(?:\.0+)?|\.0+)(?![\d.])"
)
PHANTOM_WORDS = re.compile(r"\b(simulat\w+|phantom\w*|truth|true|this model)\b", re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w]|\.\d)")


@dataclass
class Section:
    """A heading or an exercise, with what stands in it, in order."""

    title: str
    exercise: str = ""
    parts: list[tuple[str, str]] = field(default_factory=list)  # ("text" or "code", source)

    @property
    def code(self) -> str:
        return "\n".join(source for kind, source in self.parts if kind == "code")


def plain(text: str) -> str:
    """Take the marks of MyST off a text; a citation becomes the word CITED."""
    text = re.sub(r"\{cite[^}]*\}`[^`]*`|\[[^\]]+\]\(https?://[^)]+\)", " CITED ", text)
    text = re.sub(r"\{glue:text\}`[^`]*`", "#", text)
    text = re.sub(r"\{numref\}`[^`]*`", "the figure", text)
    text = re.sub(r"\{\w+\}`([^`<]*?)\s*(?:<[^`]*>)?`", r"\1", text)
    return re.sub(r"[*`$]", "", text)


def sentences(text: str) -> Iterator[str]:
    """Cut plain text into sentences; a list item, a table row and a paragraph end one."""
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|]|\d\.) )", text):
        words = " ".join(block.split())
        yield from (s for s in re.split(r"(?<=[.!?])[\"')]*\s+(?=[A-Z#(\"'])", words) if s.strip())


def sections(notebook: NotebookNode) -> list[Section]:
    """Cut a page at its headings and exercises."""
    found = [Section("")]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            found[-1].parts.append(("code", cell.source))
            continue
        for piece in re.split(r"(?m)^(?=## |`{3,}\{exercise-start\})", cell.source):
            if heading := re.match(r"## (.+)", piece):
                found.append(Section(heading[1]))
                piece = piece[heading.end() :]
            elif re.match(r"`{3,}\{exercise-start\}", piece):
                label = re.search(r":label: (\S+)", piece)
                found.append(Section(found[-1].title, label[1] if label else ""))
            found[-1].parts.append(("text", piece))
    return found


def _without(text: str, *, prompt: bool) -> str:
    """Leave out what claims nothing: prompts, hints, quiz answers, code, headings."""
    if prompt:
        text = re.sub(r"\{exercise-start\}.*?\{exercise-end\}", "", text, flags=re.DOTALL)
    text = re.sub(r"`{3,}\{admonition\} Hint.*?\n`{3,}", "", text, flags=re.DOTALL)
    text = re.sub(r"`{3,}\{dropdown\}.*?\n`{3,}", "", text, flags=re.DOTALL)
    text = re.sub(
        r"`{3,}(?:console|python|bash|text|yaml|json)\n.*?\n`{3,}", "", text, flags=re.DOTALL
    )
    text = re.sub(r"(?m)^(?:`{3,}.*|:\w[\w-]*:.*|#+ .*|\([\w-]+\)=)$", "", text)
    return plain(text)


def _body(notebook: NotebookNode) -> Iterator[Section]:
    for section in sections(notebook)[1:]:
        if section.exercise or not re.match(r"Quiz|Exercises|Take.home|Limits", section.title):
            yield section


def _messages(code: str) -> list[str]:
    """The words of the asserts of some code."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return []
    return [
        " ".join(node.msg.value.split()).casefold()
        for node in _reached(tree.body)
        if isinstance(node.msg, ast.Constant)
        and isinstance(node.msg.value, str)
        and len(node.msg.value.split()) >= 2
        and _can_fail(node.test)
    ]


def _reached(body: list[ast.stmt]) -> Iterator[ast.Assert]:
    """Asserts that a build of the book meets: not in a function, a try, or a branch for scans."""
    for node in body:
        if isinstance(node, ast.Assert):
            yield node
        elif isinstance(node, ast.If):
            test = ast.unparse(node.test)
            if test not in ("False", "0", "DATASET is not None"):
                yield from _reached(node.body)
            if test != "DATASET is None":
                yield from _reached(node.orelse)
        elif isinstance(node, ast.For | ast.With | ast.While):
            yield from _reached(node.body)


def _can_fail(test: ast.expr) -> bool:
    """Tell whether an assert's condition depends on anything that was computed."""
    own = {"np", "pd", "len", "abs", "all", "any"}
    if not {n.id for n in ast.walk(test) if isinstance(n, ast.Name)} - own:
        return False
    if isinstance(test, ast.Tuple | ast.List | ast.Dict | ast.JoinedStr):
        return False  # not empty, so true
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return not any(isinstance(v, ast.Constant) and v.value for v in test.values)
    return not (
        isinstance(test, ast.Compare) and ast.dump(test.left) == ast.dump(test.comparators[0])
    )


def _counts(notebook: NotebookNode) -> dict[str, int]:
    """How many seeds, heads or studies each constant of a page stands for."""
    found: dict[str, int] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(re.sub(r"(?m)^[%!].*", "", cell.source))):
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                continue
            name, value = node.targets[0].id, node.value
            if not REPEATS.match(name):
                continue
            if isinstance(value, ast.Constant) and isinstance(value.value, int):
                found[name] = value.value
            elif isinstance(value, ast.List | ast.Tuple):
                found[name] = len(value.elts)
            elif isinstance(value, ast.Call) and getattr(value.func, "id", "") == "range":
                found[name] = len(range(*(ast.literal_eval(a) for a in value.args)))
    return found


def unasserted_claims(notebook: NotebookNode) -> list[str]:
    """Sentences on a result that no assert above them quotes."""
    faults = []
    counts = _counts(notebook)
    for section in _body(notebook):
        code = section.code if section.exercise else ""
        for kind, source in section.parts:
            if kind == "code":
                code += "\n" + source if not section.exercise else ""
                continue
            messages = _messages(code)
            for sentence in sentences(_without(source, prompt=True)):
                if sentence.rstrip().endswith("?") or NOT_A_RESULT.search(sentence):
                    continue
                quoted = any(message in sentence.casefold() for message in messages)
                if RESULT.search(sentence) and not quoted:
                    faults.append(f"{section.title}: no assert quotes: {sentence}")
                elif OF_A_METHOD.search(sentence) and not SPECIFIC.search(sentence):
                    named = set(re.findall(r"\b[A-Z_]+\b", section.code)) & set(counts)
                    enough = {n for n in named if counts[n] >= (5 if "HEADS" in n else 20)}
                    if not enough:
                        faults.append(f"{section.title}: over how many seeds or heads? {sentence}")
    return faults


def directions_without_source(notebook: NotebookNode) -> list[str]:
    """Take-home points and quiz answers that give a direction and no source or model."""
    word = re.compile(rf"\b({DIRECTION}|{OUTCOME}|more|less)\b", re.IGNORECASE)
    faults = []
    for section in sections(notebook):
        text = "\n".join(source for kind, source in section.parts if kind == "text")
        if section.title == "Quiz" and not section.exercise:
            for option, why in re.findall(r"\{dropdown\} ([^\n]+)\n(.*?)\n`{3,}", text, re.DOTALL):
                right = "**Right.**" in why
                said = plain((option + ". " if right else "") + why)
                if word.search(said) and not IN_A_MODEL.search(said):
                    faults.append(f"quiz: {said}")
        elif re.match(r"Take.home", section.title):
            for point in re.split(r"\n(?=- )", text.split("\n## ")[0]):
                said = plain(point)
                if (
                    said.lstrip().startswith("-")
                    and word.search(said)
                    and not IN_A_MODEL.search(said)
                ):
                    faults.append(f"take-home: {said}")
    return faults


def unmarked_captions(notebook: NotebookNode) -> list[str]:
    """Captions that name neither a simulation nor a data set."""
    faults = []
    for cell in notebook.cells:
        caption = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption")
        if not caption or "remove-cell" in cell.metadata.get("tags", ()):
            continue
        named = any(name in caption for name in (*DATA_SETS, "MNI152"))
        if not (named or SIMULATED.search(caption) or PUBLISHED.search(caption)):
            faults.append(caption)
    return faults


def _outputs(cell: NotebookNode) -> Iterator[tuple[str, str]]:
    for output in cell.get("outputs", ()):
        if "scrapbook" in output.get("metadata", {}):
            continue
        if "text" in output:
            yield "text", output["text"]
        for mime, content in output.get("data", {}).items():
            if mime in ("text/plain", "text/html", "text/markdown"):
                yield mime, content


def impossible_numbers(notebook: NotebookNode) -> list[str]:
    """What is printed to a reader as nan, inf or p = 0."""
    faults = []
    for cell in notebook.cells:
        for mime, text in _outputs(cell):
            if bad := IMPOSSIBLE.search(text):
                faults.append(f"{bad[0]}: {text[:200]}")
            if P_ZERO.search(text):
                faults.append(f"p = 0: {text[:200]}")
            if mime == "text/html":
                text = _as_text(text)
            faults += [f"p = 0 in the column {name!r}" for name in _zero_columns(text)]
    return faults


def _as_text(html: str) -> str:
    """Write the tables of some HTML with their columns aligned, as pandas prints them."""
    rows = [
        [" ".join(c.get_text().split()) for c in row.find_all(["th", "td"])]
        for row in BeautifulSoup(html, "html.parser").find_all("tr")
    ]
    return "\n".join("".join(f"{(cell or '-').replace(' ', '_'):>40}" for cell in r) for r in rows)


def _zero_columns(text: str) -> Iterator[str]:
    """Columns of a printed table that are named p and hold a zero."""
    ends: dict[int, str] = {}
    for line in text.splitlines():
        tokens = [(m.group(), m.end()) for m in re.finditer(r"\S+", line)]
        heads = {end: t for t, end in tokens if re.match(r"(?i:p|pr)(?:$|[_(>-]|val)", t)}
        if heads:
            ends = heads
            continue
        yield from (
            ends[end]
            for token, end in tokens
            if end in ends and re.fullmatch(r"(?:0?\.0+|0\.?0*)(?:e[+-]?\d+)?", token)
        )


def phantom_words_of_a_rerun(notebook: NotebookNode) -> list[str]:
    """What a rerun on a scan would still say of the phantom."""
    scan = "a scan"
    kept = rerun.without_phantom(copy.deepcopy(notebook), scan, None)
    faults = []
    for number, cell in enumerate(kept.cells):
        if number == 1:  # what the rerun itself says
            continue
        if cell.cell_type == "markdown":
            if bad := PHANTOM_WORDS.search(plain(cell.source)):
                faults.append(f"{bad[0]}: {cell.source[:200]}")
            continue
        words = cell.metadata.get("mystnb", {})
        shown = [words.get("figure", {}).get("caption", ""), words.get("image", {}).get("alt", "")]
        of_scan = "scan" in cell.metadata or "remove-cell" in cell.metadata.get("tags", ())
        if "plt.show()" in cell.source and not of_scan and "diagram" not in shown[0].lower():
            faults.append(f"no words for a scan: {shown[0]}")
        shown += _strings_for_scans(cell)
        faults += [f"{b[0]}: {text}" for text in shown if (b := PHANTOM_WORDS.search(text))]
    return faults


def _strings_for_scans(cell: NotebookNode) -> list[str]:
    """Strings of a cell that a rerun shows: not those of a branch that only the phantom takes."""
    if "parameters" in cell.metadata.get("tags", ()):
        return []
    found: list[str] = []

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If | ast.IfExp) and isinstance(node.test, ast.Compare):
            left, compared = node.test.left, node.test.ops[0]
            if isinstance(left, ast.Name) and left.id == "DATASET":
                parts = node.orelse if isinstance(compared, ast.Is) else node.body
                for part in parts if isinstance(parts, list) else [parts]:
                    walk(part)
                return
        if isinstance(node, ast.ImportFrom | ast.Import | ast.Assert):
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            found.append(node.value)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(cell.source))
    return found


def longest_and_shortest(notebook: NotebookNode) -> tuple[int, int, float, int]:
    """Count questions whose right option is longest, or shortest; by chance; of how many."""
    longest = shortest = count = 0
    chance = 0.0
    for section in sections(notebook):
        if section.title != "Quiz" or section.exercise:
            continue
        text = "\n".join(source for _, source in section.parts)
        for question in re.split(r"^\*\*\d\. ", text, flags=re.M)[1:]:
            options = re.findall(r"\{dropdown\} ([^\n]+)\n\*\*(Right|No)", question)
            lengths = [len(plain(option)) for option, _ in options]
            right = lengths[[word for _, word in options].index("Right")]
            longest += right == max(lengths) and lengths.count(right) == 1
            shortest += right == min(lengths) and lengths.count(right) == 1
            chance += 1 / len(lengths)
            count += 1
    return longest, shortest, chance, count


def exercises(notebook: NotebookNode) -> Iterator[tuple[str, str, str, str]]:
    """Each exercise: label, prompt with hint, all the text above it, and all the code above it."""
    glued = {
        o["metadata"]["scrapbook"]["name"]: next(iter(o.data.values()))
        for c in notebook.cells
        for o in c.get("outputs", ())
        if "scrapbook" in o.get("metadata", {})
    }

    def value(match: re.Match[str]) -> str:
        name, _, form = match[1].partition(":")
        try:
            return format(ast.literal_eval(glued[name]), form)
        except (KeyError, ValueError, SyntaxError):
            return match[0]

    text, code = "", ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            drawn = "plt." in cell.source or "STEPS" in cell.source
            code += "" if drawn else "\n" + cell.source
            words = cell.metadata.get("mystnb", {})
            shown = [
                BeautifulSoup(o, "html.parser").get_text(" ") if m == "text/html" else o
                for m, o in _outputs(cell)
            ]
            shown += [words.get("figure", {}).get("caption", "")]
            text += "\n" + "\n".join([*shown, words.get("image", {}).get("alt", "")])
            continue
        source = re.sub(r"\{glue:text\}`([^`]+)`", value, cell.source)
        for piece in re.split(r"(?m)^(?=`{3,}\{exercise-start\})", source):
            if label := re.search(r"\{exercise-start\}[^\n]*\n:label: (\S+)", piece):
                prompt = piece.split("{solution-start}")[0]
                yield label[1], prompt[label.end() :], text, code
            text += "\n" + piece


def leaked_answers(notebook: NotebookNode, answers: dict[str, dict]) -> list[str]:
    """Answers that stand above their exercise, or in it."""
    faults = []
    for label, prompt, text, code in exercises(notebook):
        entry = answers.get(label, {})
        if "options" in entry:
            right = [entry["answer"]] if isinstance(entry["answer"], str) else entry["answer"]
            body = " ".join(plain(text).casefold().split())
            faults += [
                f"{label}: {option!r} stands above"
                for option in right
                if len(str(option).split()) > 1 and plain(str(option)).casefold() in body
            ]
            continue
        if isinstance(entry.get("answer"), list):
            continue
        inside = set(
            NUMBER.findall(re.sub(r"\{exercise-start\}|\(objectives? [\d and]+\)", "", prompt))
        )
        faults += [f"{label}: {n} of the prompt is right" for n in inside if _right(label, n)]
        if not entry.get("tolerance") and abs(entry.get("answer", 0)) <= 12:
            continue  # a small whole number stands on every page
        above = set(NUMBER.findall(plain(text) + "\n" + code))
        faults += [f"{label}: {n} above is right" for n in above if _right(label, n)]
    return faults


def _right(label: str, number: str) -> bool:
    return bool(check(label, float(number.replace("−", "-"))))


def asks_to_look_or_judge(notebook: NotebookNode) -> bool:
    """Tell whether an exercise asks to look at a picture or to judge a text."""
    pattern = re.compile(r"\bLook at\b[^.]*\{(?:num)?ref\}`|\bRead (?:this|the following|these)\b")
    return any(pattern.search(" ".join(prompt.split())) for _, prompt, _, _ in exercises(notebook))
