/** Light or dark: as the system says, until somebody chooses. */
export type Theme = "auto" | "light" | "dark";

const STORED = "larimar-theme";
const THEMES: Theme[] = ["auto", "light", "dark"];

export function chosenTheme(): Theme {
  const stored = localStorage.getItem(STORED) as Theme | null;
  return stored && THEMES.includes(stored) ? stored : "auto";
}

export function applyTheme(): void {
  const theme = chosenTheme();
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

/** Goes on to the next theme and returns it. */
export function nextTheme(): Theme {
  const theme = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
  if (theme === "auto") localStorage.removeItem(STORED);
  else localStorage.setItem(STORED, theme);
  applyTheme();
  return theme;
}
