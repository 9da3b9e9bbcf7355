/** The facts of a bank where their latents lie, and a query among them. */
import { useState } from "preact/hooks";
import * as api from "./api";
import type { Looked } from "./bank";
import { count } from "./format";
import { useLoad } from "./hooks";
import type { FactsMap as Mapped, MappedFact } from "./types";
import { Button, Empty, ErrorNote, Field, Form, Meter } from "./ui";

const NEAREST = 5;
const LABELLED = 12;
const FEWEST = 3;
const HALF = { width: 500, height: 230 };
const MARGIN = 1.12;

export function FactsMap({ info, at }: Looked) {
  const bank = info.config.bank;
  const [typed, setTyped] = useState("");
  const [query, setQuery] = useState("");
  const { data, error, busy } = useLoad(
    (signal) => api.map(bank, query, at, signal),
    [bank, query, at, info.version],
  );
  return (
    <>
      <Form class="toolbar" onSubmit={() => setQuery(typed.trim())} label="Map">
        <Field label="Query to place">
          <input value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
        </Field>
        <Button kind="main" submit busy={busy}>Place it</Button>
      </Form>
      <ErrorNote error={error} />
      {data && data.facts.length < FEWEST && <Empty>A map needs {FEWEST} facts.</Empty>}
      {data && data.facts.length >= FEWEST && <Drawn map={data} />}
    </>
  );
}

function Drawn({ map }: { map: Mapped }) {
  const nearest = map.query
    ? [...map.facts].sort((a, b) => b.similarity! - a.similarity!).slice(0, NEAREST)
    : [];
  const named = map.query ? nearest : map.facts.slice(0, LABELLED);
  return (
    <div class="map">
      <Chart map={map} named={new Set(named)} />
      <p class="faint">
        The two directions in which the latents of the prompts vary most: what is near here need not
        be near in all of them.{" "}
        {map.total > map.facts.length &&
          `The first ${count(map.facts.length)} of ${count(map.total)} facts.`}
      </p>
      {nearest.length > 0 && <Nearest facts={nearest} />}
    </div>
  );
}

function Chart({ map, named }: { map: Mapped; named: Set<MappedFact> }) {
  const reach = Math.max(1, ...(map.query ?? []).map(Math.abs)) * MARGIN;
  const across = (x: number) => (x / reach) * HALF.width;
  const down = (y: number) => (-y / reach) * HALF.height;
  return (
    <svg
      class="chart"
      role="img"
      aria-label={`Map of ${map.facts.length} facts${map.query ? " and the query" : ""}`}
      viewBox={`${-HALF.width} ${-HALF.height} ${2 * HALF.width} ${2 * HALF.height}`}
    >
      <line x1={-HALF.width} x2={HALF.width} y1={0} y2={0} />
      <line y1={-HALF.height} y2={HALF.height} x1={0} x2={0} />
      {map.facts.map((fact) => (
        <g key={fact.fact_id} class={named.has(fact) ? "named" : ""}>
          <circle cx={across(fact.x)} cy={down(fact.y)} r={6}>
            <title>{`${fact.prompt} ${fact.answer}`}</title>
          </circle>
          {named.has(fact) && (
            <text
              x={across(fact.x) + (fact.x > 0 ? 8 : -8)}
              y={down(fact.y) - 9}
              text-anchor={fact.x > 0 ? "end" : "start"}
            >
              {fact.answer}
            </text>
          )}
        </g>
      ))}
      {map.query && (
        <g class="query" transform={`translate(${across(map.query[0])} ${down(map.query[1])})`}>
          <circle r={13} />
          <path d="M-7 0H7M0 -7V7" />
        </g>
      )}
    </svg>
  );
}

function Nearest({ facts }: { facts: MappedFact[] }) {
  return (
    <ul class="rows" aria-label="Nearest facts">
      {facts.map((fact) => (
        <li class="row" key={fact.fact_id}>
          <div class="row-main">
            <p class="row-text">
              {fact.prompt} <strong>{fact.answer}</strong>
            </p>
            <p class="row-meta"><code class="cut">{fact.fact_id}</code></p>
          </div>
          <div class="score near">
            <span>Cosine</span>
            <span class="number">{fact.similarity!.toFixed(3)}</span>
            <Meter label={`Cosine of ${fact.fact_id}`} value={fact.similarity!} max={1} />
          </div>
        </li>
      ))}
    </ul>
  );
}
