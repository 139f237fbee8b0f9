"use strict";
for (const box of document.querySelectorAll(".slider")) {
  const range = box.querySelector("input");
  const show = () => box.style.setProperty("--cut", range.value + "%");
  const drag = (event) => {
    if (!event.buttons) return;
    const { left, width } = box.getBoundingClientRect();
    range.value = (100 * (event.clientX - left)) / width;
    show();
  };
  range.addEventListener("input", show);
  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    drag(event);
  });
  box.addEventListener("pointermove", drag);
  box.addEventListener("click", () => range.focus({ preventScroll: true }));
  show(); // a reload may have kept the slider where it was
}
for (const box of document.querySelectorAll(".matrix")) {
  const columns = box.querySelectorAll("thead th");
  const tell = (event) => {
    const cell = event.target.closest("td");
    if (!cell) return;
    const value = cell.dataset.full || cell.textContent || "0\u00a0%";
    box.querySelector("output").textContent = `${cell.parentNode.firstElementChild.textContent} read as ${columns[cell.cellIndex - 1].textContent}: ${value}`;
  };
  box.addEventListener("pointerover", tell);
  box.addEventListener("click", tell);
}
