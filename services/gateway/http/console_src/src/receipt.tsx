/** How far an erasure is, and at its end what was found and removed. */
import * as api from "./api";
import { bytes, count, moment, plural } from "./format";
import { useEvery, useLoad } from "./hooks";
import type { Receipt } from "./types";
import { Badge, ErrorNote, Hash, Pairs, Version } from "./ui";

const LOOK_MS = 1000;
const STEPS: [string, string][] = [
  ["APPENDED", "Nobody reads it"],
  ["CHECKPOINTED", "Checkpoints gone"],
  ["REMOVED", "Payloads deleted"],
  ["REWRITTEN", "Files rewritten"],
  ["DONE", "Searched and replayed"],
];

export function ReceiptView({ bank, eventId }: { bank: string; eventId: string }) {
  const { data, error, reload } = useLoad(
    (signal) => api.receipt(bank, eventId, signal),
    [bank, eventId],
  );
  const done = data?.step === "DONE";
  useEvery(LOOK_MS, () => done || reload());
  return (
    <>
      {/* Said here, for what is outside an open dialog is not read aloud. */}
      <div class="unseen" role="status">{done && "The erasure is complete."}</div>
      <ErrorNote error={error} />
      {data && <Steps receipt={data} />}
      {data?.failure && <ErrorNote error={new Error(`It is tried again: ${data.failure}`)} />}
      {data && <Found receipt={data} done={done} />}
    </>
  );
}

function Steps({ receipt }: { receipt: Receipt }) {
  const reached = STEPS.findIndex(([step]) => step === receipt.step);
  return (
    <ol class="steps" aria-label="Steps of the erasure">
      {STEPS.map(([step, title], place) => (
        <li
          key={step}
          class={place <= reached ? "reached" : ""}
          aria-current={place === reached ? "step" : undefined}
        >
          {title}
        </li>
      ))}
    </ol>
  );
}

function Found({ receipt, done }: { receipt: Receipt; done: boolean }) {
  const scan = receipt.scan;
  const saved = `data:application/json,${encodeURIComponent(JSON.stringify(receipt, null, 2))}`;
  return (
    <>
      <Pairs
        rows={[
          ["Receipt", <code class="cut">{receipt.event_id}</code>],
          ["Begun", moment(receipt.started_ms)],
          ["Payloads removed", count(receipt.payloads_removed)],
          ["Checkpoints removed", count(receipt.checkpoints_removed)],
          ["Queued events removed", count(receipt.queue_entries_removed)],
          ...(done && scan
            ? ([
                ["Found before", plural(scan.found_before, "place")],
                ["Found now", plural(scan.found, "place")],
                [
                  "Searched",
                  `${plural(scan.keys, "key")}, ${plural(scan.files, "file")}, ${bytes(scan.bytes)}`,
                ],
              ] as [string, string][])
            : []),
        ]}
      />
      {scan?.not_searched && <p class="faint">Not searched: {scan.not_searched}</p>}
      {done && (
        <ul class="rows" aria-label="Banks of the family">
          {receipt.banks.map((one) => (
            <li class="row" key={one.bank}>
              <p class="row-main row-meta">
                <strong>{one.bank}</strong>
                <Version value={one.version} />
                <Hash value={one.digest} />
              </p>
              {one.replay_matches ? (
                <Badge tone="in">Replay matches</Badge>
              ) : (
                <Badge tone="bad">Replay differs</Badge>
              )}
            </li>
          ))}
        </ul>
      )}
      <p>
        <a download={`receipt-${receipt.event_id}.json`} href={saved}>Download the receipt</a>
      </p>
    </>
  );
}
