/** Forks, differences and merges. */
import type { Looked } from "./bank";
import { DiffPanel } from "./diff";
import { ForkPanel } from "./fork";
import { MergePanel } from "./merge";

export function Branches(looked: Looked) {
  return (
    <div class="panels">
      <DiffPanel {...looked} />
      <ForkPanel {...looked} />
      <MergePanel {...looked} />
    </div>
  );
}
