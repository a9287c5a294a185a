"use strict";

// The theme of the system, until the button asks for the other one; kept for as long as the tab is open.
const theme = {
  dark() {
    const asked = document.documentElement.dataset.theme;
    return asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },

  set(name) {
    document.documentElement.dataset.theme = name;
  },

  // Browsers may refuse storage to files; then the theme lasts until the page is left.
  stored(name) {
    try {
      if (name) sessionStorage.setItem("theme", name);
      return sessionStorage.getItem("theme");
    } catch {
      return null;
    }
  },

  start() {
    const button = document.getElementById("theme");
    const label = () => (button.textContent = theme.dark() ? "Light theme" : "Dark theme");
    button.addEventListener("click", () => {
      const name = theme.dark() ? "light" : "dark";
      theme.set(name);
      theme.stored(name);
      label();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
    label();
    button.hidden = false;
  },
};

// In the head, so that the page is not seen in the other theme first.
const kept = theme.stored();
if (kept === "dark" || kept === "light") theme.set(kept);
document.addEventListener("DOMContentLoaded", theme.start);
