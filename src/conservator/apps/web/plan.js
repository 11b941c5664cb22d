// Runs once in the list of the plan: its buttons and ticks are told to the program, which sends a new list.
let chosen = null;
const act = (control) => {
  chosen = {action: control.dataset.action, place: Number(control.dataset.place)};
  trigger("input", chosen);
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) act(button);
});
element.addEventListener("change", (event) => event.target.matches("[data-action=tick]") && act(event.target));
watch("value", () => {
  for (const box of element.querySelectorAll("[data-action=tick]")) box.checked = box.hasAttribute("checked");
  if (!chosen) return;
  const rows = element.querySelectorAll("li");
  const shift = {up: -1, down: 1}[chosen.action] || 0;
  const row = rows[Math.max(0, Math.min(rows.length - 1, chosen.place + shift))];
  const wanted = row?.querySelector(`[data-action=${chosen.action}]`);
  (wanted?.disabled ? row.querySelector("button:not([disabled])") : wanted)?.focus();
  chosen = null;
});
