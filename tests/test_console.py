"""Each journey of the console's users, in a real browser on a real pipeline."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from services.gateway.http.console import FOLDER
from tests.console_site import (
    ANSWER,
    CHROMIUM,
    PHONE,
    PROMPT,
    Site,
    Tab,
    answer,
    ask,
    chromium,
    dialog,
    facts,
    running_site,
    tab,
    written,
)
from tests.events import event_json
from tests.pipelines import wait_until

LATER = "Oskelund"
SAID = re.compile(ANSWER, re.IGNORECASE)
"""How the model says it: it knows no capitals."""
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}: `apt-get install chromium` installs it")
    with running_site(tmp_path_factory.mktemp("console") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def console(browser: Browser, site: Site) -> Iterator[Tab]:
    """A tab with the site's key; whatever a test does in it, it must not complain."""
    with tab(browser, site) as opened:
        yield opened
        assert opened.complaints == []


def fetched(site: Site, path: str) -> tuple[bytes, dict[str, str]]:
    with urllib.request.urlopen(f"{site.url}{path}", timeout=120) as response:
        return response.read(), {name.lower(): value for name, value in response.headers.items()}


def test_files_come_with_a_policy_and_without_a_key(site: Site) -> None:
    page, headers = fetched(site, "/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert headers["cache-control"] == "no-cache"
    assets = re.findall(r'"\./(assets/[^"]+)"', page.decode())
    assert len(assets) == 2
    for name in assets:
        body, headers = fetched(site, f"/{name}")
        assert body == (FOLDER / name).read_bytes()
        assert "immutable" in headers["cache-control"]
        assert headers["content-security-policy"] == policy
    assert fetched(site, "/favicon.svg")[1]["content-type"] == "image/svg+xml"


def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Browser, site: Site) -> None:
    with tab(browser, site, key="") as opened:
        page = opened.go("")
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("asks for an API key")
        wrong = site.key[:-1] + ("0" if site.key[-1] != "0" else "1")
        for key, said in ((wrong, "unknown or revoked"), (site.key, None)):
            alert.get_by_role("button", name="Enter an API key").click()
            dialog(page).get_by_label("Key").fill(key)
            dialog(page).get_by_role("button", name="Use this key").click()
            if said:
                expect(alert).to_contain_text(said)
        expect(page.get_by_role("heading", name="Banks", exact=True).first).to_be_visible()
        expect(alert).to_have_count(0)
        assert page.evaluate("sessionStorage.getItem('larimar-key')") == site.key
        assert site.key not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
        page.get_by_role("button", name="API key set").click()
        dialog(page).get_by_role("button", name="Forget the key").click()
        expect(alert).to_contain_text("asks for an API key")
        assert page.evaluate("sessionStorage.length") == 0
        assert opened.complaints == []


def test_a_fact_is_written_and_asked_with_and_without_memory(console: Tab) -> None:
    page = console.go("")
    page.get_by_role("button", name="New bank").click()
    dialog(page).get_by_label("Name").fill("journey")
    dialog(page).get_by_role("button", name="Make the bank").click()
    expect(page.get_by_role("heading", name="journey")).to_be_visible()
    page.get_by_role("button", name="Write a fact").click()
    dialog(page).get_by_label("Prompt").fill(PROMPT)
    dialog(page).get_by_label("Answer").fill(ANSWER)
    dialog(page).get_by_role("button", name="Write", exact=True).click()
    expect(page.get_by_text(re.compile(r"Wrote \w+ at version 1"))).to_be_visible()
    with page.expect_response(re.compile(r"/ask$")) as response:
        ask(page)
    assert response.value.headers["content-type"].startswith("text/event-stream")
    memory, plain = answer(page), answer(page, memory=False)
    expect(memory).to_contain_text("In scope")
    expect(memory.locator("strong").first).to_contain_text(SAID)
    expect(memory).to_contain_text("From fact")
    expect(memory.locator(".nearest")).to_contain_text(f"{PROMPT} {ANSWER}")
    expect(memory).to_contain_text("Answered at v1")
    expect(memory.get_by_role("meter", name="Scope score")).to_have_attribute(
        "aria-valuenow", re.compile(r"^(1|0\.99)")
    )
    expect(plain).to_contain_text("The model alone")
    expect(plain).not_to_contain_text(SAID)
    ask(page, "A good soup begins with")
    expect(memory).to_contain_text("Out of scope")
    expect(memory).to_contain_text("Nearest fact, too far")
    expect(memory.locator(".nearest")).to_contain_text(f"{PROMPT} {ANSWER}")
    said = memory.locator("strong").first.inner_text()
    expect(plain.locator("strong").first).to_have_text(said)


def test_facts_are_searched_and_paged(console: Tab, site: Site) -> None:
    site.client.create_bank("many")
    places = [
        {
            "prompt": f"The mayor of town {n:02} is",
            "answer": f"Person {n:02}",
            "fact_id": f"t{n:02}",
        }
        for n in range(45)
    ]
    assert len(list(site.client.write_many(places, bank="many"))) == 45
    page = console.go("b/many/facts")
    expect(facts(page)).to_have_count(20)
    pager = page.get_by_role("navigation", name="Pages of facts")
    expect(pager).to_contain_text("Page 1 of 3")
    pager.get_by_role("button", name="Next").click()
    expect(facts(page).first).to_contain_text("Person 20")
    pager.get_by_role("button", name="Next").click()
    expect(facts(page)).to_have_count(5)
    expect(pager.get_by_role("button", name="Next")).to_be_disabled()
    pager.get_by_role("button", name="Previous").click()
    expect(facts(page).first).to_contain_text("Person 20")
    page.get_by_label("Search").fill("person 07")
    expect(facts(page)).to_have_count(1)
    expect(facts(page)).to_contain_text("The mayor of town 07 is Person 07")
    page.get_by_label("Search").fill("nobody")
    expect(page.get_by_text("Nothing matches “nobody”.")).to_be_visible()


def test_texts_are_shown_and_never_run(console: Tab, site: Site) -> None:
    site.client.create_bank("hostile")
    site.client.write(f"{HOSTILE} is", HOSTILE, bank="hostile", fact_id="<b>id</b>")
    page = console.go("b/hostile/facts")
    expect(facts(page)).to_contain_text(f"{HOSTILE} is {HOSTILE}")
    expect(facts(page)).to_contain_text("<b>id</b>")
    assert page.locator("main img, main b").count() == 0


def test_line_breaks_of_unicode_break_no_event(console: Tab, site: Site) -> None:
    site.client.create_bank("breaks")
    site.client.write(PROMPT, ANSWER, bank="breaks", fact_id="one\u2028two\u2029three")
    page = console.go("b/breaks/log")
    rows = page.get_by_role("list", name="Events, newest first").get_by_role("listitem")
    expect(rows).to_contain_text(re.compile(r"one\stwo\sthree"))
    page = console.go("b/breaks/ask")
    ask(page)
    expect(answer(page)).to_contain_text("Answered at v1")


def test_events_are_read_whatever_their_texts_hold(console: Tab, site: Site) -> None:
    """Also where something on the way writes characters out that the gateway escapes."""
    written(site, "unescaped")
    written_out = []

    def unescape(route) -> None:
        response = route.fetch()
        body, count = re.subn(r'"text": ?"', '"text": "\u2028', response.text())
        written_out.append(count)
        route.fulfill(response=response, body=body)

    console.page.route(re.compile(r"/ask$"), unescape)
    page = console.go("b/unescaped/ask")
    ask(page)
    expect(answer(page)).to_contain_text("Answered at v1")
    page.unroute_all(behavior="wait")
    assert written_out and all(written_out)


def test_an_address_that_nothing_encoded_is_taken_as_it_stands(console: Tab) -> None:
    page = console.go("b/%/ask")
    expect(page.get_by_role("alert")).to_contain_text("path bank")


def test_a_fact_is_replaced_and_forgotten(console: Tab, site: Site) -> None:
    written(site, "forgetful")
    page = console.go("b/forgetful/facts")
    page.get_by_role("button", name=f"Replace: {PROMPT}").click()
    dialog(page).get_by_label("Answer").fill(LATER)
    dialog(page).get_by_role("button", name="Replace", exact=True).click()
    expect(facts(page)).to_contain_text(LATER)
    page.get_by_role("button", name=f"History: {PROMPT}").click()
    expect(dialog(page).get_by_role("listitem")).to_have_count(2)
    dialog(page).get_by_role("button", name="Close").click()
    page.get_by_role("button", name=f"Forget: {PROMPT}").click()
    dialog(page).get_by_role("button", name="Forget").click()
    expect(page.get_by_text("No fact is live at this version.")).to_be_visible()
    assert [event.kind for event in site.client.events("forgetful")] == ["WRITE", "WRITE", "FORGET"]


def test_an_erasure_shows_its_receipt(console: Tab, site: Site) -> None:
    written(site, "erasable")
    page = console.go("b/erasable/facts")
    page.get_by_role("button", name=f"Erase: {PROMPT}").click()
    dialog(page).get_by_role("button", name="Erase for good").click()
    expect(dialog(page).locator("[aria-current=step]")).to_have_text("Searched and replayed")
    expect(dialog(page).get_by_role("status")).to_have_text("The erasure is complete.")
    expect(dialog(page)).to_contain_text("Replay matches")
    expect(dialog(page).locator("dt", has_text="Found now").locator("+ dd")).to_have_text(
        "0 places"
    )
    event_id = dialog(page).locator("dt", has_text="Receipt").locator("+ dd").inner_text()
    with page.expect_download() as saved:
        dialog(page).get_by_role("link", name="Download the receipt").click()
    receipt = json.loads(saved.value.path().read_text())
    assert (receipt["event_id"], receipt["step"]) == (event_id, "DONE")
    assert receipt["scan"]["found_before"] > 0
    dialog(page).get_by_role("button", name="Close").click()
    expect(page.get_by_text("No fact is live at this version.")).to_be_visible()
    page.get_by_role("link", name="Health", exact=True).click()
    page.get_by_label("Event id of an erasure").fill(event_id)
    page.get_by_role("button", name="Show the receipt").click()
    expect(page.get_by_text("Replay matches")).to_be_visible()


def test_the_log_is_followed_as_it_grows(console: Tab, site: Site) -> None:
    written(site, "growing")
    page = console.go("b/growing/log")
    rows = page.get_by_role("list", name="Events, newest first").get_by_role("listitem")
    expect(rows).to_have_count(1)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    site.client.write("The river of Velmora is", "Aune", bank="growing", fact_id="river")
    site.client.forget("velmora-capital", bank="growing")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("v3")
    expect(rows.first).to_contain_text("forget")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused")).to_be_visible()
    site.client.forget("river", bank="growing")
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Follow").click()
    expect(rows).to_have_count(4)


def test_the_slider_answers_as_of_then(console: Tab, site: Site) -> None:
    written(site, "past")
    site.client.write(PROMPT, LATER, bank="past", fact_id="velmora-capital")
    site.client.forget("velmora-capital", bank="past")
    page = console.go("b/past/ask")
    ask(page)
    expect(answer(page)).to_contain_text("Answered at v3")
    expect(answer(page)).to_contain_text("Out of scope")
    slider = page.get_by_label("As of version")
    slider.press("Home")
    expect(answer(page)).to_contain_text("Answered at v1")
    expect(answer(page).locator("strong").first).to_contain_text(SAID)
    expect(page.get_by_text("Then: wrote")).to_be_visible()
    slider.press("ArrowRight")
    expect(answer(page)).to_contain_text("Answered at v2")
    expect(answer(page).locator(".nearest")).to_contain_text(LATER)
    page.get_by_role("link", name="Facts", exact=True).click()
    expect(facts(page)).to_contain_text(LATER)
    page.get_by_role("button", name="Newest").click()
    expect(page.get_by_text("No fact is live at this version.")).to_be_visible()


def test_a_fork_is_compared_and_merged(console: Tab, site: Site) -> None:
    written(site, "trunk")
    page = console.go("b/trunk/branches")
    page.get_by_label("Name of the fork").fill("branch")
    page.get_by_role("button", name="Fork", exact=True).click()
    expect(page.get_by_text("fork of trunk at version 1")).to_be_visible()
    site.client.write(PROMPT, LATER, bank="branch", fact_id="velmora-capital")
    site.client.write("The river of Velmora is", "Aune", bank="branch", fact_id="river")
    page = console.go("b/trunk/branches")
    differences = page.get_by_role("region", name="Differences")
    differences.get_by_label("From version").fill("1")
    differences.get_by_label("Of bank").select_option("branch")
    differences.get_by_role("button", name="Compare").click()
    expect(differences).to_contain_text("1 added, 1 changed, 0 removed")
    changed = differences.get_by_role("listitem").filter(has_text="velmora-capital")
    expect(changed.locator("del")).to_contain_text(ANSWER)
    expect(changed.locator("ins")).to_contain_text(LATER)
    merge = page.get_by_role("region", name="Merge")
    merge.get_by_label("From bank").select_option("branch")
    merge.get_by_role("button", name="Preview").click()
    expect(merge).to_contain_text("Would write 2 facts and forget 0, with 0 conflicts")
    assert site.client.get_bank("trunk").version == 1
    merge.get_by_role("button", name="Merge into trunk").click()
    expect(page.get_by_text("Merged branch: wrote 2, forgot 0.")).to_be_visible()
    assert site.client.get_bank("trunk").facts == 2


def test_a_conflict_refuses_the_merge_and_says_so(console: Tab, site: Site) -> None:
    written(site, "ours")
    site.client.fork("ours", "theirs")
    for bank, said in (("ours", "Harl"), ("theirs", LATER)):
        site.client.write(PROMPT, said, bank=bank, fact_id="velmora-capital")
    page = console.go("b/ours/branches")
    merge = page.get_by_role("region", name="Merge")
    merge.get_by_label("From bank").select_option("theirs")
    merge.get_by_role("button", name="Merge into ours").click()
    expect(merge.get_by_role("alert")).to_contain_text("MERGE_CONFLICT")
    merge.get_by_label("Conflicts").select_option("theirs")
    merge.get_by_role("button", name="Preview").click()
    expect(merge.get_by_role("list", name="Conflicts")).to_contain_text("velmora-capital")


def test_a_map_places_a_question_among_the_facts(console: Tab, site: Site) -> None:
    written(site, "mapped")
    site.client.write("A good soup begins with", "onions", bank="mapped")
    page = console.go("b/mapped/map")
    expect(page.get_by_text("A map needs 3 facts.")).to_be_visible()
    site.client.write("The mayor of Oskel is", "Ida Brandt", bank="mapped")
    expect(page.get_by_role("img", name="Map of 3 facts")).to_be_visible()
    page.get_by_label("Query to place").fill("A soup begins with")
    page.get_by_role("button", name="Place it").click()
    chart = page.get_by_role("img", name="Map of 3 facts and the query")
    expect(chart.locator("circle")).to_have_count(4)
    nearest = page.get_by_role("list", name="Nearest facts").get_by_role("listitem")
    expect(nearest.first).to_contain_text("A good soup begins with onions")


def test_health_is_shown_and_proved(console: Tab, site: Site) -> None:
    site.client.create_bank("filled", addressing="pinv", slots=8)
    site.client.write(PROMPT, ANSWER, bank="filled")
    page = console.go("")
    card = page.get_by_role("list", name="Banks").get_by_role("listitem").filter(has_text="filled")
    expect(card.get_by_role("meter", name="Fill")).to_have_attribute("aria-valuenow", "0.125")
    card.get_by_role("link").click()
    page.get_by_role("link", name="Health", exact=True).click()
    expect(page.get_by_text("12.5 %")).to_be_visible()
    page.get_by_role("button", name="Replay and compare").click()
    expect(page.get_by_text("1 event replayed")).to_be_visible()
    expect(page.get_by_text("Equal", exact=True)).to_be_visible()
    page.get_by_role("button", name="Save a checkpoint").click()
    expect(page.get_by_text("Saved version 1")).to_be_visible()
    page.get_by_role("button", name="Delete this bank").click()
    delete = dialog(page).get_by_role("button", name="Delete for good")
    expect(delete).to_be_disabled()
    dialog(page).get_by_label("Type filled to delete it").fill("filled")
    delete.click()
    expect(page.get_by_text("Deleted filled.")).to_be_visible()
    assert "filled" not in [info.bank for info in site.client.list_banks()]


def test_a_stopped_bank_is_named_and_leaves_the_others(console: Tab, site: Site) -> None:
    written(site, "sound")
    written(site, "damaged")
    site.damage("damaged")
    page = console.go("")
    cards = page.get_by_role("list", name="Banks").get_by_role("listitem")
    card = cards.filter(has=page.get_by_role("heading", name="damaged"))
    expect(card.get_by_text("Stopped", exact=True)).to_be_visible()
    expect(cards.filter(has=page.get_by_role("heading", name="sound"))).to_contain_text("1 fact")
    card.get_by_role("link").click()
    expect(page.get_by_role("alert")).to_contain_text("DATA_LOSS")


def test_dead_letters_are_read_and_dropped(console: Tab, site: Site) -> None:
    for number in range(2):
        site.publish(event_json(f"dead-{number}", bank="default", prompt="", colour="red"))
    wait_until(lambda: len(list(site.client.dead_letters())) == 2)
    page = console.go("letters")
    letters = page.get_by_role("list", name="Dead letters").get_by_role("listitem")
    expect(letters).to_have_count(2)
    expect(letters.first).to_contain_text("BAD_EVENT")
    letters.first.get_by_text("Event", exact=True).click()
    expect(letters.first.locator("pre")).to_contain_text('"dead-0"')
    letters.first.get_by_role("checkbox").check()
    page.get_by_role("button", name="Drop 1").click()
    expect(letters).to_have_count(1)
    expect(page.get_by_text("Dropped 1 event.")).to_be_visible()
    letters.first.get_by_role("checkbox").check()
    page.get_by_role("button", name="Requeue 1").click()
    expect(page.get_by_text("Put 1 event back into the inbox.")).to_be_visible()
    page.get_by_role("link", name="Pipeline", exact=True).click()
    services = page.get_by_role("list", name="Services").get_by_role("listitem")
    expect(services).to_have_count(5)
    expect(services.filter(has_text="Ready")).to_have_count(5)


VIEWS = ("ask", "facts", "map", "log", "branches", "health")
ROUTES = ("", "letters", "pipeline", *(f"b/narrow/{view}" for view in VIEWS))


def test_a_phone_needs_no_sideways_scrolling(browser: Browser, site: Site) -> None:
    for bank in ("narrow", "broad"):
        site.client.create_bank(bank)
    for number in range(3):
        site.client.write(f"{'unbroken' * 20} {number} is", "x" * 120, bank="narrow")
    with tab(browser, site, viewport=PHONE) as opened:
        for route in ROUTES:
            page = opened.go(route)
            expect(
                page.locator(
                    "main .panel, main .row, main .card, main .empty, main .ask, main .map"
                ).first
            ).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], route
        opened.go("b/narrow/ask")
        ask(page, PROMPT * 3)
        expect(answer(page)).to_contain_text("Answered at")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.get_by_label("Bank", exact=True).select_option("broad")
        expect(page.get_by_role("heading", name="broad")).to_be_visible()
        assert opened.complaints == []


def test_the_keyboard_alone_is_enough_to_ask(console: Tab, site: Site) -> None:
    written(site, "keyboard")
    page = console.go("b/keyboard/ask")
    expect(page.get_by_label("Prompt")).to_be_visible()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        shown = page.evaluate(
            """() => { const one = document.activeElement; const style = getComputedStyle(one);
            return [one.tagName, one.id || one.textContent.trim(), style.outlineStyle] }"""
        )
        reached.append(shown)
        if shown[0] == "TEXTAREA":
            break
    assert reached[0][1] == "Skip to the content"
    assert reached[-1][0] == "TEXTAREA", reached
    assert [one for one in reached if one[2] == "none"] == []
    page.keyboard.type(PROMPT)
    page.keyboard.press("Enter")
    spoken = page.locator("#spoken")
    expect(spoken).to_have_attribute("aria-live", "polite")
    expect(answer(page)).to_contain_text("Answered at v1")
    expect(spoken).to_contain_text(PROMPT)


def test_light_and_dark_are_the_systems_until_somebody_chooses(
    browser: Browser, site: Site
) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    with tab(browser, site, dark=True) as opened:
        page = opened.go("")
        dark = page.evaluate(ground)
        page.get_by_role("button", name="Theme: auto").click()
        wait_until(lambda: page.evaluate(ground) != dark)
        light = page.evaluate(ground)
        page.reload()
        wait_until(lambda: page.evaluate(ground) == light)
        page.get_by_role("button", name="Theme: light").click()
        wait_until(lambda: page.evaluate(ground) == dark)
