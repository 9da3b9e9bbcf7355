import { useState } from "preact/hooks";

/** Pages that know only their next one: the tokens of those before are kept. */
export function usePages() {
  const [tokens, setTokens] = useState([""]);
  return {
    token: tokens[tokens.length - 1],
    number: tokens.length,
    before: () => setTokens((old) => old.slice(0, -1)),
    next: (token: string) => setTokens((old) => [...old, token]),
    restart: () => setTokens([""]),
  };
}
