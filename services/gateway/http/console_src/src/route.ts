/** Where the console is: kept after the # of the address, so that each view has a link. */
import { useEffect, useState } from "preact/hooks";

export type Tab = "ask" | "facts" | "map" | "log" | "branches" | "health";

export const TABS: [Tab, string][] = [
  ["ask", "Ask"], ["facts", "Facts"], ["map", "Map"], ["log", "Log"], ["branches", "Branches"],
  ["health", "Health"],
];

export type Route =
  | { page: "banks" | "letters" | "pipeline" }
  | { page: "bank"; bank: string; tab: Tab };

export const bankLink = (bank: string, tab: Tab = "ask") => `#/b/${encodeURIComponent(bank)}/${tab}`;

/** A part of the address; one that was not made by encoding is taken as it stands. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function parsed(hash: string): Route {
  const [page, bank, tab] = hash.replace(/^#\/?/, "").split("/").map(decoded);
  if (page === "letters" || page === "pipeline") return { page };
  if (page !== "b" || !bank) return { page: "banks" };
  const known = TABS.find(([name]) => name === tab);
  return { page: "bank", bank, tab: known ? known[0] : "ask" };
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parsed(location.hash));
  useEffect(() => {
    const follow = () => setRoute(parsed(location.hash));
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}

export const goTo = (link: string) => (location.hash = link);
