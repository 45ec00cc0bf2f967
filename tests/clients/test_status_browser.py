"""The status page in a real browser: hostile names stay text, it updates by itself, and it fits a phone."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Generator

import pytest
from browser import Browser, browser
from support.busy import HOSTILE, OPERATOR, Busy, busy, fail, streams
from support.waiting import wait_until

STREAMS = 200


@pytest.fixture(scope="module")
def here() -> Generator[Busy]:
    with busy() as here:
        here.post(HOSTILE, HOSTILE, team=HOSTILE)
        fail(here)
        with streams(here, STREAMS, ["ci", HOSTILE]):
            yield here


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Generator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture
def tab(chromium: Browser) -> Browser:
    chromium.open_tab()
    return chromium


def log_in(tab: Browser) -> None:
    """Answer the browser's question for a user and a password, as a person would."""
    credentials = b64encode(f":{OPERATOR}".encode()).decode()
    tab.call("Network.setExtraHTTPHeaders", headers={"authorization": f"Basic {credentials}"})


def test_it_asks_for_a_password(here: Busy, tab: Browser) -> None:
    tab.call("Fetch.enable", handleAuthRequests=True)
    number = tab.start("Page.navigate", url=f"{here.url}/status/")
    tab.call("Fetch.continueRequest", requestId=tab.wait("Fetch.requestPaused")["requestId"])
    challenge = tab.wait("Fetch.authRequired")
    assert (challenge["authChallenge"]["scheme"], challenge["authChallenge"]["realm"]) == ("basic", "bud-asgi status")
    answer = {"response": "ProvideCredentials", "username": "", "password": OPERATOR}
    tab.call("Fetch.continueWithAuth", requestId=challenge["requestId"], authChallengeResponse=answer)
    tab.finish(number)
    tab.call("Fetch.disable")
    wait_until(lambda: tab.value("document.title") == "ready: bud-asgi", "the page is shown")


def test_hostile_names_are_text_and_its_policy_is_kept(here: Busy, tab: Browser) -> None:
    log_in(tab)
    tab.open(f"{here.url}/status/")
    assert tab.value("document.title") == "ready: bud-asgi"
    assert tab.value("document.images.length") == 0
    assert tab.value("document.scripts.length") == 1
    assert tab.value("document.body.innerText.includes('<img src=x')")
    assert tab.problems() == []
    urls = {event["params"]["request"]["url"] for event in tab.events if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:")} == {f"{here.url}/status/"}


def test_code_that_gets_into_the_page_does_not_run(here: Busy, tab: Browser) -> None:
    """The second line of defence: the policy, if something was not escaped."""
    log_in(tab)
    tab.open(f"{here.url}/status/")
    tab.value("""document.body.insertAdjacentHTML("beforeend", '<img src=x onerror="window.ran = 1">')""")
    tab.value("""document.body.append(Object.assign(document.createElement("script"), { text: "window.ran = 1" }))""")
    time.sleep(0.2)
    assert tab.value("window.ran === undefined")
    assert tab.problems() != []  # the browser reports that it refused them


def test_it_updates_by_itself_without_moving(here: Busy, tab: Browser) -> None:
    log_in(tab)
    tab.resize(1200, 800)
    tab.open(f"{here.url}/status/")
    shown = "document.querySelector('main').innerText"
    assert "newcomer" not in tab.value(shown)
    tab.value("window.mark = 1; window.scrollTo(0, 500)")
    here.post("newcomer", "unknown-model")
    wait_until(lambda: "newcomer" in tab.value(shown), "the page has updated itself", 8)
    assert tab.value("window.mark === 1 && window.scrollY === 500")
    assert tab.problems() == []


def test_it_works_without_javascript(here: Busy, tab: Browser) -> None:
    log_in(tab)
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.call("Page.navigate", url=f"{here.url}/status/")
    loads = [tab.wait("Page.loadEventFired", timeout=15) for _ in range(2)]  # at first, and by the refresh
    assert 4.0 < loads[1]["timestamp"] - loads[0]["timestamp"] < 9.0
    document = tab.call("DOM.getOuterHTML", nodeId=tab.call("DOM.getDocument")["root"]["nodeId"])["outerHTML"]
    assert "Streams in flight" in document
    assert "backup/claude-haiku-4-5" in document
    tab.call("Emulation.setScriptExecutionDisabled", value=False)


WIDTHS = {"a phone": (390, True), "a small phone": (320, True), "a tablet": (820, True), "a desktop": (1440, False)}


@pytest.mark.parametrize(("width", "phone"), WIDTHS.values(), ids=WIDTHS.keys())
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits(here: Busy, tab: Browser, width: int, phone: bool, scheme: str) -> None:
    log_in(tab)
    tab.resize(width, 844, phone=phone)
    tab.prefer(scheme)
    tab.open(f"{here.url}/status/")
    assert tab.value("document.documentElement.scrollWidth") <= width
    background = tab.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 29)")
    assert tab.value("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)") >= 14.0
    labels = "getComputedStyle(document.querySelector('td'), '::before').content"
    assert (tab.value(labels) == "none") is (width > 992)


def test_200_streams_run_while_it_is_open(here: Busy, tab: Browser) -> None:
    log_in(tab)
    tab.open(f"{here.url}/status/")
    assert tab.value("document.body.innerText.includes('The oldest; 100 more.')")
    tab.events.clear()
    time.sleep(4.5)
    tab.value("0")  # collects the events
    replies = [event for event in tab.events if event["method"] == "Network.responseReceived"]
    assert [event["params"]["response"]["status"] for event in replies] == [200, 200]
    assert here.messages.state().streams == STREAMS
