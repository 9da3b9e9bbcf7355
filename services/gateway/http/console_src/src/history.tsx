import * as api from "./api";
import { ago, moment } from "./format";
import { useLoad } from "./hooks";
import type { Fact } from "./types";
import { Badge, Button, Dialog, ErrorNote, Version } from "./ui";

interface HistoryProps {
  bank: string;
  fact: Fact;
  onClose: () => void;
  onChoose: (version: number) => void;
}

/** Every event of a fact, newest first; each is a version that can be looked at. */
export function History({ bank, fact, onClose, onChoose }: HistoryProps) {
  const { data, error } = useLoad(
    (signal) => api.events(bank, { fact_id: fact.fact_id }, signal),
    [bank, fact.fact_id],
  );
  return (
    <Dialog title="History" onClose={onClose}>
      <p class="row-meta"><code class="cut">{fact.fact_id}</code></p>
      <ErrorNote error={error} />
      <ul class="rows">
        {data?.map((event) => (
          <li class="row" key={event.version}>
            <p class="row-main row-meta">
              <Version value={event.version} />
              <Badge>{event.kind.toLowerCase()}</Badge>
              <time title={moment(event.time_ms)}>{ago(event.time_ms)}</time>
            </p>
            <Button
              kind="quiet"
              label={`Look at version ${event.version}`}
              onPress={() => {
                onChoose(event.version);
                onClose();
              }}
            >
              Look at it
            </Button>
          </li>
        ))}
      </ul>
    </Dialog>
  );
}
