"""The report page: what is written, and how it behaves in a real browser."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aaclip_med.batch.report.page import write_report
from aaclip_med.batch.report.preview import VERSION, draw_preview
from aaclip_med.errors import OutputError
from aaclip_med.presets import get_preset
from batch.report_cases import THRESHOLD, draw_picture, draw_volume, score

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")

HOSTILE = '<img src=x onerror="window.hacked=1">\'&</script><script>window.hacked=1</script>'
FAULT = f"{HOSTILE}: damaged; copy it again"
ACCOUNT = {
    "preset": "brain-mri",
    "calibrated": True,
    "calibration_caveat": "only 19 normal volumes",
    "demonstration": True,
    "threshold": THRESHOLD,
    "operating_point": "default",
    "adapters_hash": "0123456789abcdef",
    "aaclip_med": "9.8.7",
    "date": "2031-05-06",
}
SPOT_PLACE = (1 - 10 / 40, 1 - 39 / 50)
"""Of the spot at the patient's left and front in an axial picture, from the left and from the top."""


def make_row(name: str, value: float, case: Any = None, **others: Any) -> dict[str, Any]:
    candidates = case.candidates if case else []
    volume_ml = sum(candidate.volume_ml for candidate in candidates)
    found = {"candidates": len(candidates), "candidates_ml": volume_ml, "peak_slice": case.peak_slice if case else 0}
    about = {"slices": 24, "spacing_mm": "2x2x4", "orientation": "RAS", "preset": "brain-mri", "calibrated": True}
    return {"case": name, "score": value, "p_value": 1 - value, **found, **about, "status": "ok"} | others


def make_run() -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, bytes]]:
    """Rows, lesions and previews of a run with a bit of everything."""
    axial, picture = draw_volume("PIR"), draw_picture(colour=True)
    found, photo = score(*axial, "axial"), score(*picture, "native")
    rows = [
        make_row("quiet", 0.61),
        make_row("spot", 0.9995, found),
        make_row("photo", 0.97, photo),
        make_row(HOSTILE, 0.9),
        {"case": "broken", "calibrated": True, "status": "failed", "error": FAULT, "score": None},
        make_row("case10", 0.3, p_value=float("nan")),
        make_row("case9", 0.2),
    ]
    lesions = [
        {"case": name, "lesion": one.id, "volume_ml": one.volume_ml, "peak": one.peak, "mean": one.mean}
        | {"first_slice": one.first_slice, "last_slice": one.last_slice}
        for name, case in (("spot", found), ("photo", photo))
        for one in case.candidates
    ]
    preset = get_preset("brain-mri")
    previews = {
        "spot": draw_preview(axial[0], found, preset, None, THRESHOLD, 100),
        HOSTILE: draw_preview(axial[0], found, preset, None, THRESHOLD, 100),
        "photo": draw_preview(picture[0], photo, preset, None, THRESHOLD, 100),
        "case9": b"\xff damaged",
        "case10": b'{"version": 0}',
    }
    return rows, lesions, previews


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "report.html"
    rows, lesions, previews = make_run()
    write_report(path, ACCOUNT, rows, lesions, previews.get)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra [test])")
    with sync_api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield instance
        instance.close()


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Any]:
    """Opens the page; afterwards nothing may have been asked of the network, nothing said on the console."""
    requests: list[str] = []
    complaints: list[str] = []
    contexts = []

    def visit_page(width: int = 1280, height: int = 900, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: requests.append(request.url.split(":")[0]))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(report.as_uri())
        return page

    yield visit_page
    for context in contexts:
        context.close()
    assert set(requests) <= {"file", "data"}
    assert requests.count("file") == len(contexts)
    assert complaints == []


def shown_cases(page: Any) -> list[str]:
    return list(page.eval_on_selector_all("#cases tr:not([hidden]) bdi", "all => all.map((one) => one.textContent)"))


def open_case(page: Any, name: str) -> None:
    page.locator("#cases bdi").get_by_text(name, exact=True).click()
    page.wait_for_selector("#picture[data-drawn]")


def wait_for_slice(page: Any, number: int) -> None:
    page.wait_for_selector(f"#picture[data-drawn='{number}']")


def pixel(page: Any, place: tuple[float, float]) -> tuple[int, int, int]:
    red, green, blue, _ = page.evaluate(
        "([x, y]) => { const picture = document.getElementById('picture');"
        "const context = new OffscreenCanvas(1, 1).getContext('2d');"
        "context.drawImage(picture, -Math.floor(x * picture.width), -Math.floor(y * picture.height));"
        "return [...context.getImageData(0, 0, 1, 1).data]; }",
        list(place),
    )
    return red, green, blue


def is_hot(page: Any, place: tuple[float, float]) -> bool:
    red, _, blue = pixel(page, place)
    return red - blue > 50


def test_the_page_says_what_it_shows(report: Path) -> None:
    text = report.read_text(encoding="utf-8").split("<main>")[0]
    for said in (
        "Brain MRI, 7 cases", "For research. Not for clinical use.", "Demonstration adapters", "only 19 normal volumes",
        "candidates begin at heat 0.999 (default)", "adapters 0123456789ab", "aaclip-med 9.8.7", "2031-05-06",
    ):  # fmt: skip
        assert said in text
    assert "Not calibrated" not in text


def test_an_uncalibrated_run_says_so(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", {"threshold": 0.5, "tower_hash": "fedc" * 9}, [], [], {}.get)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for said in ("Not calibrated.", "0 cases", "a model probability of 0.5", "no adapters, tower fedcfedcfedc"):
        assert said in text
    assert "Demonstration" not in text


def test_names_cannot_become_markup(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count("<script>") == 3
    assert text.count("</script>") == text.count("<script")


def test_previews_pass_through_one_at_a_time(tmp_path: Path) -> None:
    rows = [make_row(f"case{number}", 0.5) for number in range(60)]
    preview = json.dumps({"version": VERSION, "slices": ["A" * 400_000]}).encode()
    tracemalloc.start()
    write_report(tmp_path / "report.html", ACCOUNT, rows, [], lambda _: bytes(bytearray(preview)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "report.html").stat().st_size > 24_000_000
    assert most < 8_000_000


def test_a_page_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(_: str) -> bytes:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"report\.html"):
        write_report(path, ACCOUNT, [make_row("a", 0.5)], [], fail)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@needs_chromium
def test_cases_are_sorted_by_score_and_by_any_column(visit: Any) -> None:
    page = visit()
    assert shown_cases(page) == ["spot", "photo", HOSTILE, "quiet", "case10", "case9", "broken"]
    page.get_by_role("button", name="Score").click()
    assert shown_cases(page) == ["case9", "case10", "quiet", HOSTILE, "photo", "spot", "broken"]
    assert page.get_attribute("th.score", "aria-sort") == "ascending"
    page.get_by_role("button", name="Case", exact=True).click()
    assert shown_cases(page) == [HOSTILE, "broken", "case9", "case10", "photo", "quiet", "spot"]
    page.get_by_role("button", name="mL", exact=True).click()
    assert shown_cases(page)[0] == "spot"
    assert page.locator("th[aria-sort]").count() == 1


@needs_chromium
def test_cases_are_filtered_by_name_status_and_score(visit: Any) -> None:
    page = visit()
    page.get_by_label("Find").fill("CASE")
    assert shown_cases(page) == ["case10", "case9"]
    assert page.text_content("#shown") == "2 of 7 cases"
    page.get_by_label("Find").fill("copy it again")
    assert shown_cases(page) == ["broken"]
    page.get_by_label("Find").fill("")
    page.get_by_text("with candidates", exact=False).first.click()
    assert shown_cases(page) == ["spot", "photo"]
    page.locator("label[for=show-failed]").click()
    assert shown_cases(page) == ["broken"]
    page.locator("label[for=show-ok]").click()
    assert len(shown_cases(page)) == 6
    page.locator("label[for=show-all]").click()
    page.get_by_label("Score from").focus()
    page.keyboard.press("End")
    assert shown_cases(page) == ["spot"]
    assert page.text_content("#least-said") == "0.99950"
    page.keyboard.press("Home")
    assert len(shown_cases(page)) == 7


@needs_chromium
def test_the_hottest_case_opens_at_its_peak_with_the_patients_left_on_the_right(visit: Any) -> None:
    page = visit()
    page.wait_for_selector("#picture[data-drawn]")
    assert page.text_content("#name") == "spot"
    assert int(page.get_attribute("#picture", "data-drawn")) in range(5, 9)
    assert "R on the left, A at the top" in page.get_attribute("#picture", "aria-label")
    assert is_hot(page, SPOT_PLACE)
    assert not is_hot(page, (1 - SPOT_PLACE[0], SPOT_PLACE[1]))
    assert not is_hot(page, (SPOT_PLACE[0], 1 - SPOT_PLACE[1]))


@needs_chromium
def test_threshold_and_opacity_act_at_once(visit: Any) -> None:
    page = visit()
    page.wait_for_selector("#picture[data-drawn]")
    assert page.is_disabled("#reset")
    heat = page.get_by_label("Heat", exact=True)
    assert "1 in 1,000 normal voxels" in heat.get_attribute("aria-valuetext")
    heat.focus()
    page.keyboard.press("End")
    page.wait_for_function("document.getElementById('from').textContent.startsWith('from 0.99999')")
    assert not is_hot(page, SPOT_PLACE)
    page.get_by_role("button", name="Back to the operating point").click()
    assert page.text_content("#from") == "from 0.999"
    assert is_hot(page, SPOT_PLACE)
    page.get_by_label("Opacity").focus()
    page.keyboard.press("Home")
    assert page.text_content("#opaque") == "0 %"
    assert not is_hot(page, SPOT_PLACE)


@needs_chromium
def test_keys_wheel_and_drag_move_the_slice(visit: Any) -> None:
    page = visit()
    open_case(page, "spot")
    assert page.evaluate("document.activeElement.id") == "picture"
    page.keyboard.press("Home")
    wait_for_slice(page, 0)
    assert not is_hot(page, SPOT_PLACE)
    assert page.text_content("#place") == "0 of 0–23"
    page.keyboard.press("ArrowDown")
    wait_for_slice(page, 1)
    page.keyboard.press("PageDown")
    wait_for_slice(page, 11)
    page.keyboard.press("ArrowUp")
    wait_for_slice(page, 10)
    page.keyboard.press("End")
    wait_for_slice(page, 23)
    page.keyboard.press("ArrowDown")
    wait_for_slice(page, 23)
    page.hover("#stage")
    page.mouse.wheel(0, -100)
    wait_for_slice(page, 21)
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 50, box["y"] + 50, steps=4)
    page.mouse.up()
    page.wait_for_function("Number(document.getElementById('picture').dataset.drawn) < 19")
    page.get_by_label("Slice", exact=True).focus()
    page.keyboard.press("Home")
    wait_for_slice(page, 0)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "spot"


@needs_chromium
def test_a_candidate_is_jumped_to(visit: Any) -> None:
    page = visit()
    open_case(page, "spot")
    page.keyboard.press("Home")
    wait_for_slice(page, 0)
    entry = page.locator("#candidates button")
    assert entry.count() == 1
    assert "slices 5–8" in entry.text_content()
    entry.click()
    page.wait_for_function("Number(document.getElementById('picture').dataset.drawn) >= 5")
    assert entry.get_attribute("aria-current") == "true"
    assert is_hot(page, SPOT_PLACE)


@needs_chromium
def test_a_picture_is_shown_in_colour_and_without_letters(visit: Any) -> None:
    page = visit()
    open_case(page, "photo")
    red, green, blue = pixel(page, (0.2, 0.7))
    assert red > green > blue
    assert page.get_attribute("#picture", "aria-label").startswith("native slice 0, heat")


@needs_chromium
def test_failed_cases_show_their_reason(visit: Any) -> None:
    page = visit()
    assert FAULT in page.locator("#cases tr[data-status=failed]").text_content()
    page.locator("#cases bdi").get_by_text("broken", exact=True).click()
    assert page.text_content("#trouble") == f"Failed: {FAULT}"
    assert page.is_hidden("#panel")


@needs_chromium
@pytest.mark.parametrize("name", ["quiet", "case9", "case10"])
def test_a_case_without_pictures_says_so(visit: Any, name: str) -> None:
    page = visit()
    page.locator("#cases bdi").get_by_text(name, exact=True).click()
    assert page.text_content("#trouble") == "No pictures of this case."


@needs_chromium
def test_hostile_names_are_text(visit: Any) -> None:
    page = visit()
    open_case(page, HOSTILE)
    assert page.text_content("#name") == HOSTILE
    page.locator("#cases bdi").get_by_text("broken", exact=True).click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


@needs_chromium
def test_a_script_that_slipped_in_would_not_run(browser: Any, report: Path, tmp_path: Path) -> None:
    attacked = tmp_path / "attacked.html"
    attack = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'></body>"
    attacked.write_text(report.read_text(encoding="utf-8").replace("</body>", attack), encoding="utf-8")
    page = browser.new_page()
    page.goto(attacked.as_uri())
    assert page.evaluate("window.hacked") is None
    page.close()


@needs_chromium
def test_the_table_is_walked_with_the_keyboard(visit: Any) -> None:
    page = visit()
    page.locator("#cases button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.text_content("#name") == "photo"
    page.get_by_role("button", name="Next case").click()
    assert page.text_content("#name") == HOSTILE
    page.get_by_label("Find").fill("case")
    page.get_by_role("button", name="Next case").click()
    assert page.text_content("#name") == "case10"
    page.get_by_role("button", name="Next case").click()
    page.get_by_role("button", name="Next case").click()
    assert page.text_content("#name") == "case9"


@needs_chromium
def test_on_a_phone_the_viewer_covers_the_list_and_gives_it_back(visit: Any) -> None:
    page = visit(360, 740, has_touch=True, is_mobile=True)
    assert page.is_hidden("#viewer")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#cases bdi").get_by_text("spot", exact=True).tap()
    page.wait_for_selector("#picture[data-drawn]")
    assert page.evaluate("document.getElementById('list').inert")
    assert page.locator("#viewer").bounding_box()["width"] == 360
    assert page.evaluate("document.getElementById('viewer').scrollWidth") <= 360
    assert is_hot(page, SPOT_PLACE)
    page.keyboard.press("Escape")
    assert page.is_hidden("#viewer")
    assert page.evaluate("document.activeElement.textContent") == "spot"
