// Before and after under one slider: by mouse, by touch, and by the keys of the range input below.
for (const box of document.querySelectorAll(".compare")) {
  const range = box.querySelector("input");
  const show = () => {
    box.style.setProperty("--at", range.value + "%");
    range.setAttribute("aria-valuetext", Math.round(range.value) + " % before, the rest after");
  };
  const move = (event) => {
    const {left, width} = box.getBoundingClientRect();
    range.value = (100 * (event.clientX - left)) / width;
    show();
  };
  box.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    range.focus({preventScroll: true});
    box.setPointerCapture(event.pointerId);
    move(event);
  });
  box.addEventListener("pointermove", (event) => box.hasPointerCapture(event.pointerId) && move(event));
  range.addEventListener("input", show);
  show();
}

// At 100 % one pixel of the photo is one pixel of the screen, whatever the screen's scale.
const scale = () => document.documentElement.style.setProperty("--dot", 1 / (window.devicePixelRatio || 1));
window.addEventListener("resize", scale);
scale();
