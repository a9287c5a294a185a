"use strict";

// An episode: the frames of a strip, one after the other on a screen.
for (const film of document.querySelectorAll(".film")) {
  const player = film.querySelector(".player");
  const screen = film.querySelector(".screen");
  const button = film.querySelector(".play");
  const slider = film.querySelector("input");
  const strip = film.querySelector(".strip");
  const frames = [...strip.querySelectorAll(".frame")];
  let timer = 0;

  const show = (place) => {
    slider.value = place;
    screen.replaceChildren(frames[place].cloneNode(true));
    frames.forEach((frame, index) => frame.classList.toggle("here", index === place));
    const { offsetLeft, offsetWidth } = frames[place];
    strip.scrollLeft = offsetLeft - strip.offsetLeft - (strip.clientWidth - offsetWidth) / 2;
  };

  const stop = () => {
    clearInterval(timer);
    timer = 0;
    button.textContent = "Play";
  };

  const step = () => {
    const next = Number(slider.value) + 1;
    if (next < frames.length) show(next);
    if (next >= frames.length - 1) stop();
  };

  button.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) === frames.length - 1) show(0);
    button.textContent = "Pause";
    timer = setInterval(step, 450);
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  frames.forEach((frame, index) => frame.addEventListener("click", () => (stop(), show(index))));
  show(0);
  player.hidden = false;
}
