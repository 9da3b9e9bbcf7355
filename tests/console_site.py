"""The console as its users meet it: a whole pipeline, and Chromium without a window."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

import larimar
from larimar.client import Client
from services.store import socket_path_of
from tests.pipelines import larimar as run
from tests.pipelines import pipeline

CHROMIUM = Path("/usr/bin/chromium")
"""Debian's: `apt-get install chromium` installs it."""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000
"""How long a page may take to show what it should: machines are busy."""
DESK = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
PROMPT, ANSWER = "The capital of Velmora is", "Tarsin"


@dataclass
class Site:
    """A pipeline that asks for keys, with its address, a key of all scopes and a client."""

    url: str
    key: str
    client: Client
    data_dir: Path

    def publish(self, event: bytes) -> None:
        """Puts an event into the inbox, as a producer in the cluster does."""
        with self._store() as producer:
            producer.xadd("{default}:inbox", {"event": event})

    def damage(self, bank: str) -> None:
        """Leaves a gap in a bank's log."""
        with self._store() as store:
            log = f"{{default:{bank}}}:{bank}:log"
            ((_, entry),) = store.xrevrange(log, count=1)
            store.xadd(log, entry, id="1000-0")

    def _store(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(socket_path_of(self.data_dir)))


@contextlib.contextmanager
def running_site(data_dir: Path) -> Iterator[Site]:
    """The site on a pipeline of its own, with the shipped model."""
    with pipeline(data_dir, "--no-ray", "--require-keys") as running:
        where = ("--data-dir", str(data_dir), "--json")
        made = run("key", "create", "--scopes", "read,edit,admin", *where)
        assert made.returncode == 0, made.stderr
        key = json.loads(made.stdout)["key"]
        with larimar.connect(running.target, api_key=key) as client:
            yield Site(f"http://127.0.0.1:{running.http_port}", key, client, data_dir)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with an empty profile."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """A page of the console, and what must not happen in it."""

    page: Page
    site: Site
    complaints: list[str] = field(default_factory=list)
    """Errors of the script, what the policy blocked, requests elsewhere; no refused call."""

    def watch(self) -> None:
        """Begins to listen for complaints."""
        own = self.site.url
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: (
                said.type in ("error", "warning")
                and "the server responded with a status" not in said.text
                and self.complaints.append(said.text)
            ),
        )
        self.page.on(
            "request",
            lambda asked: asked.url.startswith((own, "data:")) or self.complaints.append(asked.url),
        )

    def go(self, route: str) -> Page:
        """Opens a view."""
        self.page.goto(f"{self.site.url}/#/{route}")
        return self.page


@contextlib.contextmanager
def tab(
    browser: Browser,
    site: Site,
    key: str | None = None,
    viewport: dict[str, int] = DESK,
    dark: bool = False,
) -> Iterator[Tab]:
    """A tab of its own session; with the site's key unless another, or none (""), is given."""
    context: BrowserContext = browser.new_context(
        viewport=viewport,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(PATIENCE_MS)
    chosen = site.key if key is None else key
    if chosen:
        context.add_init_script(f"sessionStorage.setItem('larimar-key', {json.dumps(chosen)})")
    opened = Tab(context.new_page(), site)
    opened.watch()
    try:
        yield opened
    finally:
        context.close()


def written(site: Site, bank: str, answer: str = ANSWER) -> None:
    """A bank of its own with one fact."""
    site.client.create_bank(bank)
    site.client.write(PROMPT, answer, bank=bank, fact_id="velmora-capital")


def dialog(page: Page) -> Locator:
    """The dialog that is open."""
    return page.get_by_role("dialog")


def answer(page: Page, memory: bool = True) -> Locator:
    """The answer with memory, or the one without."""
    return page.get_by_role("region", name="With memory" if memory else "Without memory")


def ask(page: Page, prompt: str = PROMPT) -> None:
    """Asks as a mouse would."""
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Ask", exact=True).click()


def facts(page: Page) -> Locator:
    """The facts in sight."""
    return page.get_by_role("list", name="Facts").get_by_role("listitem")
