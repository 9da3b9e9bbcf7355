/** The frame: header, banks at the side, one view. */
import { useState } from "preact/hooks";
import * as api from "./api";
import { Bank } from "./bank";
import { Banks } from "./banks";
import { count } from "./format";
import { useEvery, useLoad } from "./hooks";
import { Keys } from "./keys";
import { Letters } from "./letters";
import { Notices } from "./notices";
import { Pipeline } from "./pipeline";
import { bankLink, goTo, useRoute } from "./route";
import type { BankInfo } from "./types";
import { chosenTheme, nextTheme } from "./theme";
import { Button } from "./ui";

/** A list of banks looks at each of them. */
const LOOK_MS = 60_000;

export function App() {
  const [identity, setIdentity] = useState(0);
  const [theme, setTheme] = useState(chosenTheme);
  return (
    <>
      <a class="skip" href="#main" onClick={skipToMain}>Skip to the content</a>
      <header class="top">
        <a class="brand" href="#/">
          <Mark />
          <span>Larimar</span>
        </a>
        <div class="top-tools">
          <Button
            kind="quiet"
            onPress={() => setTheme(nextTheme())}
          >
            Theme: {theme}
          </Button>
          <Keys onChange={() => setIdentity((last) => last + 1)} />
        </div>
      </header>
      <Inside key={identity} />
      <Notices />
    </>
  );
}

/** All that depends on who asks: begun anew with another key. */
function Inside() {
  const route = useRoute();
  const listed = useLoad(api.banks, []);
  useEvery(LOOK_MS, listed.reload);
  const current = route.page === "bank" ? route.bank : "";
  return (
    <div class="frame">
      <Side banks={listed.data ?? []} current={current} page={route.page} />
      <main id="main" tabIndex={-1}>
        {route.page === "banks" && <Banks listed={listed} />}
        {route.page === "letters" && <Letters />}
        {route.page === "pipeline" && <Pipeline />}
        {route.page === "bank" && (
          <Bank
            key={current}
            name={current}
            tab={route.tab}
            banks={listed.data ?? []}
            onBanks={listed.reload}
          />
        )}
      </main>
    </div>
  );
}

function Side(props: { banks: BankInfo[]; current: string; page: string }) {
  const names = props.banks.map((one) => one.config.bank);
  const pages: [string, string, string][] = [
    ["banks", "#/", "All banks"],
    ["letters", "#/letters", "Dead letters"],
    ["pipeline", "#/pipeline", "Pipeline"],
  ];
  return (
    <nav class="side" aria-label="Banks and pipeline">
      <div class="narrow">
        <label class="unseen" for="bank-picker">Bank</label>
        <select
          id="bank-picker"
          value={props.current}
          onChange={(event) => goTo(bankLink(event.currentTarget.value))}
        >
          <option value="" disabled>Choose a bank</option>
          {names.map((name) => <option key={name} value={name}>{name}</option>)}
        </select>
      </div>
      <ul class="side-pages">
        {pages.map(([page, link, text]) => (
          <li key={page}>
            <a href={link} aria-current={props.page === page ? "page" : undefined}>{text}</a>
          </li>
        ))}
      </ul>
      <h2 class="side-head wide">Banks</h2>
      <ul class="side-banks wide">
        {props.banks.map(({ config, facts }) => (
          <li key={config.bank}>
            <a
              href={bankLink(config.bank)}
              aria-current={props.current === config.bank ? "page" : undefined}
            >
              <span class="cut">{config.bank}</span>
              <span class="faint number" aria-label={`${facts} facts`}>{count(facts)}</span>
            </a>
          </li>
        ))}
      </ul>
    </nav>
  );
}

function skipToMain(event: Event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="8" />
      <path d="M5 12c5-5 8 4 13 0 3-2.5 6-2 9 0M5 20c5-5 8 4 13 0 3-2.5 6-2 9 0" />
    </svg>
  );
}
