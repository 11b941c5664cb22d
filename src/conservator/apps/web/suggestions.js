// Runs once in the list of suggestions: a button asks the program to do one.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) trigger("input", {place: Number(button.dataset.place)});
});
