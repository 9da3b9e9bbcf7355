/** Dead letters: published events that could not be applied. */
import { useState } from "preact/hooks";
import * as api from "./api";
import { ago, moment, plural } from "./format";
import { useAction, useEvery, useLoad } from "./hooks";
import { notify } from "./notices";
import { usePages } from "./paging";
import type { DeadLetter } from "./types";
import { Badge, Button, Empty, ErrorNote, Pager } from "./ui";

const LOOK_MS = 5000;

export function Letters() {
  const pages = usePages();
  const page = useLoad((signal) => api.deadLetters(pages.token, signal), [pages.token]);
  const [chosen, setChosen] = useState<Set<string>>(new Set());
  useEvery(LOOK_MS, page.reload);
  const here = page.data?.letters.filter((one) => chosen.has(one.letter_id)) ?? [];
  const ids = here.map((one) => one.letter_id);
  const settled = (text: string) => {
    notify(text);
    setChosen(new Set());
    page.reload();
  };
  const requeueing = useAction(async () => {
    const { requeued } = await api.requeue(ids);
    settled(`Put ${plural(requeued, "event")} back into the inbox.`);
  });
  const dropping = useAction(async () => {
    const { dropped } = await api.drop(ids);
    settled(`Dropped ${plural(dropped, "event")}.`);
  });
  const toggle = (id: string) =>
    setChosen((old) => {
      const now = new Set(old);
      if (!now.delete(id)) now.add(id);
      return now;
    });
  return (
    <>
      <header class="page-head">
        <h1>Dead letters</h1>
        <div class="buttons">
          <Button disabled={!ids.length} busy={requeueing.busy} onPress={requeueing.run}>
            Requeue {ids.length > 0 && ids.length}
          </Button>
          <Button kind="danger" disabled={!ids.length} busy={dropping.busy} onPress={dropping.run}>
            Drop {ids.length > 0 && ids.length}
          </Button>
        </div>
      </header>
      <ErrorNote error={page.error ?? requeueing.error ?? dropping.error} />
      {page.data && !page.data.letters.length && (
        <Empty>None. Every published event was applied.</Empty>
      )}
      <ul class="rows" aria-label="Dead letters">
        {page.data?.letters.map((letter) => (
          <LetterRow
            key={letter.letter_id}
            letter={letter}
            chosen={chosen.has(letter.letter_id)}
            onToggle={() => toggle(letter.letter_id)}
          />
        ))}
      </ul>
      {page.data && (pages.number > 1 || page.data.next_after) && (
        <Pager
          label="Pages of dead letters"
          hasBefore={pages.number > 1}
          hasNext={Boolean(page.data.next_after)}
          onBefore={pages.before}
          onNext={() => pages.next(page.data!.next_after)}
        >
          {plural(page.data.total, "letter")}
        </Pager>
      )}
    </>
  );
}

interface LetterRowProps {
  letter: DeadLetter;
  chosen: boolean;
  onToggle: () => void;
}

function LetterRow({ letter, chosen, onToggle }: LetterRowProps) {
  return (
    <li class="row">
      <label class="row-main pickable">
        <input type="checkbox" checked={chosen} onChange={onToggle} />
        <span>
          <span class="row-meta">
            <Badge tone="bad">{letter.reason}</Badge>
            <time title={moment(letter.time_ms)}>{ago(letter.time_ms)}</time>
            <span>{plural(letter.tries, "try").replace("trys", "tries")}</span>
            <code class="cut">{letter.letter_id}</code>
          </span>
          <span class="row-text">{letter.message}</span>
        </span>
      </label>
      {letter.event ? (
        <details class="row-more">
          <summary>Event</summary>
          <pre tabIndex={0}>{readable(letter.event)}</pre>
        </details>
      ) : (
        <span class="faint">Its text was erased.</span>
      )}
    </li>
  );
}

function readable(event: string): string {
  try {
    return JSON.stringify(JSON.parse(event), null, 2);
  } catch {
    return event;
  }
}
