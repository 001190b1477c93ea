"""Each page rule finds its fault, and a page that keeps them all has no problem."""

import pytest
from nbformat.v4 import new_markdown_cell, new_output

from helpers.authoring import notebooks, page_rules
from tests.authoring.pages import BODY, INTRO, PAGE, course, notebook, picture, stream

pytestmark = pytest.mark.usefixtures("machine")


def test_a_good_notebook_has_no_problems() -> None:
    good = notebook(stream("fine\n"), picture(**{"image/png": {"alt": "a line"}}))
    good.cells.append(new_markdown_cell("## Two\n\n```sh\n# no heading\n```\n\n### Three"))
    assert page_rules.problems(notebooks.normalise(good), "one") == []


TWIN = picture(alt="a")
TWIN.data["text/html"] = "<img>"
FAULTS = {
    "execution count 3, expected 1": notebook(),
    "expected 1": notebook(),
    "ends in ValueError": notebook(
        new_output("error", ename="ValueError", evalue="", traceback=[])
    ),
    "metadata.widgets": notebook(),
    "an absolute path: see /home/bob": notebook(stream("see /home/bob/x")),
    "an absolute path: /tmp/x": notebook(source="open('x')  #\n/tmp/x"),
    "an absolute path: at /root/x": notebook(title="# One\n\nat /root/x"),
    "the name of the host": notebook(stream("celery@boxwood")),
    "the name of the user": notebook(stream("drwx ada")),
    "410 KB, 400 KB at most": notebook(stream("x" * 419_000)),
    "0 first-level headings": notebook(title="no heading"),
    "2 first-level headings": notebook(title="# One\n\n# Two"),
    "level 1 is followed by 3": notebook(title="# One\n\n### Three"),
    "26 lines of code": notebook(source="1\n" * 26),
    "31 lines of code": notebook(source="%%writefile x\n" + "1\n" * 30),
    "2 parts, one at most: Two, Three": notebook(title="# One\n\n## Two\n\n## Three"),
    "text/html beside image/png": notebook(TWIN),
    "a picture without alt text": notebook(picture()),
    "a picture in the text without alt text": notebook(title="# One\n\n![](beside.png)"),
    "no What you'll do": notebook(intro=INTRO.replace("do.", "see.")),
    "no What you'll learn": notebook(intro=INTRO.replace("learn.", "see.")),
    "no What you'll need": notebook(intro=INTRO.replace("need.", "see.")),
    "do, learn, need: in another order": notebook(intro="\n\n".join(reversed(INTRO.split("\n\n")))),
    "how long it takes": notebook(intro=INTRO.replace(" to run", "")),
    "a widget": notebook(new_output("display_data", data={page_rules.WIDGET: {}})),
}
FAULTS["execution count 3, expected 1"].cells[1].execution_count = 3
FAULTS["expected 1"].cells[1].execution_count = None
FAULTS["metadata.widgets"].metadata.widgets = {}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    found = page_rules.problems(FAULTS[fault], "one")
    assert any(fault in text for text in found), found


# What to change in a page of the course, and what is wrong with it then.
COURSE_FAULTS = {
    " cells, 20 at least": (BODY, "\n"),
    " cells, 45 at most": (BODY, BODY * 4),
    " words, 900 at least": ("word " * 100, ""),
    " words, 1500 at most": ("word", "word word"),
    "1 lines in the median code cell, 2 at least": ("x = 1\ny = 2", "x = 1"),
    "6 lines in the median code cell, 5 at most": ("x = 1\ny = 2", "x = 1\n" * 6),
    "cell 4: the first of 3 code cells in a row, 2 at most": ("y = 2\n", "---\nIn:\nz\n" * 2),
    "## Observe, explain: a step is called Observe": ("## Observe", "## Observe, explain"),
    "## Run comes after ## Observe": ("## Predict", "## Observe"),
    "no ## In practice": ("## In practice", "## At work"),
    "no ## Further reading": ("## Further reading", "## Links"),
    "cell 19: an assert beside the answer": ("kill()", "assert kill()"),
    "cell 21: an assert beside the answer": ("outcome = settle()", "assert settle().lost"),
    "cell 17: a prediction that is never compared": ("prediction=guess", "prediction=3"),
}


def test_a_good_page_of_the_course_has_no_problems() -> None:
    assert page_rules.problems(course(), "99_one") == []


@pytest.mark.parametrize("fault", COURSE_FAULTS)
def test_each_fault_of_a_page_of_the_course_is_found(fault: str) -> None:
    page = course(PAGE.replace(*COURSE_FAULTS[fault]))
    found = page_rules.problems(page, "99_one")
    assert any(fault in text for text in found), found
    assert page_rules.problems(page, "lab_99_one") == []


ANSWER = (19, 21)  # of the page's code cells: from the question to what compares, counted from 1


def test_the_answer_of_a_page_is_folded_and_nothing_else() -> None:
    page = course()
    for cell in page.cells:
        if cell.cell_type == "code":
            cell.outputs = [stream("lost: 3")]
            cell.metadata = {"tags": ["mine", page_rules.FOLDED], "collapsed": True}
    found = page_rules.problems(page, "99_one")
    said = "its output is in sight of the question (make notebooks folds it)"
    assert found == [f"cell {number}: {said}" for number in ANSWER]
    for _ in range(2):  # twice is once
        page_rules.fold_answers(page)
        assert page_rules.problems(page, "99_one") == []
        for number, cell in enumerate(page.cells, start=1):
            folded = {"jupyter": {"outputs_hidden": True}, "tags": ["mine", page_rules.FOLDED]}
            if cell.cell_type == "code":
                assert cell.metadata == (folded if number in ANSWER else {"tags": ["mine"]})


def test_a_cell_without_output_has_nothing_to_fold() -> None:
    page = course()
    page_rules.fold_answers(page)
    assert all(not cell.metadata for cell in page.cells)


def test_a_file_may_be_longer_than_other_code() -> None:
    assert page_rules.problems(notebook(source="%%writefile x\n" + "1\n" * 29), "one") == []
