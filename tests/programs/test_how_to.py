"""The how-to page on programs: its code runs, and the job that it shows is one."""

import json
import re
from pathlib import Path

import pytest

from core.datasets import GivenData
from core.learning import Learner
from core.own_problems import GivenOwn
from core.spec import JobSpec

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export-a-program.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Names that the page's blocks define, run one after another, in a folder where they may leave a file."""
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        for block in re.findall(r"(?<!-->\n)```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), names)  # the page's own asserts are tests
        names["written"] = Path("recurrent.zip").read_bytes()
    return names


@pytest.mark.slow
def test_the_blocks_run_and_write_what_they_return(page):
    assert page["written"] == page["program"]
    assert page["there"].certificate.exact


@pytest.mark.slow
def test_the_job_that_is_shown_learns(page):
    (document,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    job = JobSpec.model_validate(json.loads(document) | {"meta": {"num_iterations": 2, "evaluation_seeds": 1}})
    data = {name: GivenData(arrays["inputs"], arrays["labels"], "0" * 64) for name, arrays in page["data"].items()}
    learner = Learner.from_spec(job, given=GivenOwn(page["program"], data))
    before = learner.evaluate(learner.initial())
    *_, last = learner.run()
    assert last.certificate["exact"]
    assert before.measures.keys() == {"valid_accuracy"}
