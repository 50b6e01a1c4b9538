// Tells the server which example was chosen, by its number, and when: of two clicks the later one
// may arrive first.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-example]");
  if (button) trigger("click", { example: Number(button.dataset.example), at: performance.now() });
});
