// Before the first paint: what the reader chose, if they did.
"use strict";
try {
  const chosen = localStorage.getItem("narthex.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // No storage: the system's preference it is.
}
