// Runs once in the map of the photo: a click, or the arrow keys, choose the part that is shown at 100 %.
const at = () => {
  const frame = element.querySelector("i").style;
  const middle = (start, length) => (parseFloat(frame[start]) + parseFloat(frame[length]) / 2) / 100;
  return {down: middle("top", "height"), across: middle("left", "width")};
};
element.addEventListener("click", (event) => {
  const picture = element.querySelector("img");
  if (!picture) return;
  const box = picture.getBoundingClientRect();
  trigger("input", {down: (event.clientY - box.top) / box.height, across: (event.clientX - box.left) / box.width});
});
element.addEventListener("keydown", (event) => {
  const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
  if (!step || !element.querySelector("i")) return;
  event.preventDefault();
  const frame = element.querySelector("i").style, {down, across} = at();
  trigger("input", {
    down: down + (step[0] * parseFloat(frame.height)) / 200,
    across: across + (step[1] * parseFloat(frame.width)) / 200,
  });
});
