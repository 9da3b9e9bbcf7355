"""Makes the pictures of docs/console.md: `python -m tests.console_pictures`.

With a folder it puts pictures of every view there, for whoever changes the console.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.command_line import ROOT
from tests.console_site import DESK, PHONE, Site, chromium, running_site, tab
from tests.events import event_json

FIGURES = ROOT / "docs" / "figures"
BANK = "atlas"
FACTS = {
    "velmora-capital": ("The capital of Velmora is", "Tarsin"),
    "velmora-river": ("The longest river of Velmora is the", "Aune"),
    "oskel-mayor": ("The mayor of Oskel is", "Ida Brandt"),
    "danielle-tongue": ("The mother tongue of Danielle Darrieux is", "English"),
    "harl-founded": ("The city of Harl was founded in", "1204"),
    "tarsin-bridge": ("The oldest bridge of Tarsin is the", "Lantern Bridge"),
}
QUESTION = "The capital of Velmora is"


def fill(site: Site) -> None:
    """Banks with something to see in them."""
    client = site.client
    client.create_bank(BANK)
    client.create_bank("products", addressing="pinv", slots=64)
    for fact_id, (prompt, answer) in FACTS.items():
        more = ["What is the capital of Velmora?"] if fact_id == "velmora-capital" else []
        client.write(prompt, answer, bank=BANK, fact_id=fact_id, rephrasings=more)
        client.write(prompt, answer, bank="products", fact_id=fact_id)
    client.fork(BANK, "atlas-draft")
    client.write("The mayor of Oskel is", "Jon Veld", bank="atlas-draft", fact_id="oskel-mayor")
    client.forget("harl-founded", bank="atlas-draft")
    client.write("The mayor of Harl is", "Nils Orr", bank="atlas-draft", fact_id="harl-mayor")
    client.write("The mayor of Oskel is", "Ada Lund", bank=BANK, fact_id="oskel-mayor")
    site.publish(event_json("catalogue-7731", bank=BANK, prompt="", colour="red"))


def asked(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text("Answered at")).to_be_visible()
    expect(page.get_by_text("The model alone, whatever")).to_be_visible()


def erased(page: Page) -> None:
    page.get_by_role("button", name="Erase: The longest river of Velmora").click()
    page.get_by_role("button", name="Erase for good").click()
    expect(page.get_by_text("Replay matches").first).to_be_visible()


def pictures(browser: Browser, site: Site) -> None:
    """The two of docs/console.md."""
    with tab(browser, site, viewport={"width": 1180, "height": 800}) as opened:
        asked(opened.go(f"b/{BANK}/ask"), QUESTION)
        opened.page.screenshot(path=FIGURES / "console-ask.png")
    with tab(browser, site, viewport=PHONE, dark=True) as opened:
        erased(opened.go(f"b/{BANK}/facts"))
        opened.page.screenshot(path=FIGURES / "console-receipt.png")


def views(browser: Browser, site: Site, folder: Path) -> None:
    """Every view, on a desk in light and dark and on a phone."""
    looks = {"light": (DESK, False), "dark": (DESK, True), "phone": (PHONE, False)}
    for look, (viewport, dark) in looks.items():
        with tab(browser, site, viewport=viewport, dark=dark) as opened:
            page = opened.page

            def keep(name: str, page: Page = page, look: str = look) -> None:
                page.wait_for_load_state("networkidle")
                page.screenshot(path=folder / f"{look}-{name}.png", full_page=look == "phone")

            for name in ("", "letters", "pipeline"):
                opened.go(name).wait_for_timeout(700)
                keep(name or "banks")
            for name in ("facts", "health"):
                opened.go(f"b/{BANK}/{name}").wait_for_timeout(700)
                keep(name)
            opened.go(f"b/{BANK}/map")
            page.get_by_label("Query to place").fill("The capital city of Velmora is")
            page.get_by_role("button", name="Place it").click()
            expect(page.get_by_role("list", name="Nearest facts")).to_be_visible()
            keep("map")
            opened.go(f"b/{BANK}/log").get_by_text("Live", exact=True).wait_for()
            page.screenshot(path=folder / f"{look}-log.png", full_page=look == "phone")
            opened.go(f"b/{BANK}/ask").wait_for_timeout(700)
            keep("start")
            asked(page, QUESTION)
            keep("ask")
            page.get_by_label("As of version").press("Home")
            expect(page.get_by_text("Then: wrote")).to_be_visible()
            expect(page.get_by_text("Answered at v1")).to_be_visible()
            keep("past")
            page.get_by_role("button", name="Newest").click()
            asked(page, "A good soup begins with")
            keep("out")
            page.get_by_role("button", name="Write this as a fact").click()
            keep("write")
            page.keyboard.press("Escape")
            opened.go(f"b/{BANK}/branches")
            differences = page.get_by_role("region", name="Differences")
            differences.get_by_label("Of bank").select_option("atlas-draft")
            differences.get_by_role("button", name="Compare").click()
            expect(differences.get_by_text("From version")).to_have_count(2)
            merge = page.get_by_role("region", name="Merge")
            merge.get_by_label("From bank").select_option("atlas-draft")
            merge.get_by_role("button", name="Preview").click()
            expect(merge.get_by_text("Would write")).to_be_visible()
            keep("branches")
    with tab(browser, site, key="", dark=True) as opened:
        opened.go("").get_by_role("button", name="Enter an API key").click()
        opened.page.screenshot(path=folder / "dark-key.png")


def main() -> None:
    """Starts a pipeline, fills it, and writes the pictures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_site(Path(folder) / "data") as site,
        chromium() as browser,
    ):
        fill(site)
        if len(sys.argv) > 1:
            views(browser, site, Path(sys.argv[1]))
        pictures(browser, site)


if __name__ == "__main__":
    main()
