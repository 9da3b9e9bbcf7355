/** The services of the pipeline, and the model that they serve. */
import * as api from "./api";
import { useEvery, useLoad } from "./hooks";
import { Badge, ErrorNote, Hash, Pairs, Panel } from "./ui";

const LOOK_MS = 5000;

export function Pipeline() {
  const { data, error, reload } = useLoad(api.status, []);
  useEvery(LOOK_MS, reload);
  return (
    <>
      <header class="page-head"><h1>Pipeline</h1></header>
      <ErrorNote error={error} />
      <ul class="rows" aria-label="Services">
        {data?.services.map((one) => (
          <li class="row" key={one.name}>
            <div class="row-main">
              <p class="row-text"><strong>{one.name}</strong></p>
              <p class="row-meta">
                {one.detail && <span>{one.detail}</span>}
                {one.pid > 0 && <span>process {one.pid}</span>}
              </p>
            </div>
            {one.ready ? <Badge tone="in">Ready</Badge> : <Badge tone="bad">Not ready</Badge>}
          </li>
        ))}
      </ul>
      {data && (
        <Panel title="Model">
          <Pairs
            rows={[
              ["Larimar", data.version],
              ["Model", <Hash value={data.model_digest} />],
              ["Encoder", <Hash value={data.encoder_digest} />],
              ["Scope model", <Hash value={data.scope_digest} />],
            ]}
          />
        </Panel>
      )}
    </>
  );
}
