/** An answer as it comes, and where it came from. */
import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { continued } from "./format";
import { useLoad } from "./hooks";
import { announce } from "./notices";
import type { Provenance } from "./types";
import { Badge, Button, ErrorNote, Meter, Version } from "./ui";

interface Said {
  text: string;
  busy: boolean;
  tokens: number;
  provenance?: Provenance;
  error?: Error;
}

const NOTHING: Said = { text: "", busy: true, tokens: 0 };

interface AnswerProps {
  bank: string;
  question: api.Question;
  /** Of the model alone, without the memory. */
  plain?: boolean;
  at?: number;
  onWrite?: () => void;
}

export function Answer({ bank, question, plain = false, at, onWrite }: AnswerProps) {
  const said = useAnswer(bank, question, plain, at);
  const title = plain ? "Without memory" : "With memory";
  return (
    <section class={`answer ${plain ? "plain" : ""}`} aria-label={title} aria-busy={said.busy}>
      <header class="panel-head">
        <h2>{title}</h2>
        {said.provenance && !plain && <Scope provenance={said.provenance} />}
      </header>
      <p class="continuation">
        <span class="asked">{question.prompt}</span>
        <strong class={said.busy ? "coming" : ""}>{continued(said.text)}</strong>
        {said.provenance && !said.text && <em class="faint"> no text</em>}
      </p>
      <ErrorNote error={said.error} />
      {said.provenance && !plain && (
        <Origin bank={bank} provenance={said.provenance} at={at} onWrite={onWrite} />
      )}
      {said.provenance && plain && (
        <p class="faint">The model alone, whatever was written. {said.tokens} tokens.</p>
      )}
    </section>
  );
}

/** Asks again whenever the question or the version changes. */
function useAnswer(bank: string, question: api.Question, plain: boolean, at?: number): Said {
  const [said, setSaid] = useState(NOTHING);
  useEffect(() => {
    const stop = new AbortController();
    setSaid(NOTHING);
    follow(bank, { ...question, no_memory: plain, at_version: plain ? undefined : at }, stop, setSaid)
      .then((text) => announce(`${plain ? "Without" : "With"} memory: ${question.prompt} ${text}`))
      .catch((error: Error) => {
        if (!stop.signal.aborted) setSaid((last) => ({ ...last, busy: false, error }));
      });
    return () => stop.abort();
  }, [bank, question, plain, at]);
  return said;
}

async function follow(
  bank: string,
  question: api.Question,
  stop: AbortController,
  tell: (said: Said) => void,
): Promise<string> {
  let text = "";
  for await (const piece of api.ask(bank, question, stop.signal)) {
    text += piece.text;
    const provenance = piece.provenance ?? undefined;
    tell({ text, busy: !piece.finish_reason, tokens: piece.tokens, provenance });
  }
  return text;
}

function Scope({ provenance }: { provenance: Provenance }) {
  return provenance.in_scope ? <Badge tone="in">In scope</Badge> : <Badge tone="out">Out of scope</Badge>;
}

interface OriginProps {
  bank: string;
  provenance: Provenance;
  at?: number;
  onWrite?: () => void;
}

/** Score, nearest fact and version. */
function Origin({ bank, provenance, at, onWrite }: OriginProps) {
  const { scope_score: score, scope_threshold: threshold, in_scope: inScope } = provenance;
  const nearest = provenance.nearest_fact_id;
  return (
    <div class="origin">
      <div class="score">
        <span>Scope score</span>
        <span class="number">
          {score.toFixed(3)}
          <span class="faint">, {threshold.toFixed(3)} needed</span>
        </span>
        <Meter label="Scope score" value={score} max={1} mark={threshold}
          tone={inScope ? "in" : "out"} />
      </div>
      {nearest && <Nearest bank={bank} factId={nearest} at={at} used={inScope} />}
      <p class="faint">
        Answered at <Version value={provenance.version} />
        {provenance.stale && ", which may be old: the store did not answer"}
        {!inScope && ", by the model alone"}.
      </p>
      {!inScope && onWrite && <Button onPress={onWrite}>Write this as a fact</Button>}
    </div>
  );
}

function Nearest(props: { bank: string; factId: string; at?: number; used: boolean }) {
  const { bank, factId, at, used } = props;
  const { data, error } = useLoad(
    (signal) => api.fact(bank, factId, at, signal),
    [bank, factId, at],
  );
  return (
    <div class="nearest">
      <h3>{used ? "From fact" : "Nearest fact, too far"}</h3>
      {data && (
        <p>
          {data.prompt} <strong>{data.answer}</strong>
        </p>
      )}
      <p class="faint">
        <code class="cut">{factId}</code>
        {data && <> written at <Version value={data.version} /></>}
      </p>
      <ErrorNote error={error} />
    </div>
  );
}
