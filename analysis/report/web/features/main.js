// The features part of the page: which feature is shown follows from the address, so that links and the back
// button work.

function startFeatures() {
  featureData.start(document.getElementById("feature-data"));
  ownNames.start();
  startNameFiles();
  const section = document.getElementById("features");
  const article = document.getElementById("feature");
  const status = document.getElementById("feature-status");
  let shown = null;

  // Going through the list leaves no trail in the history; a link does.
  const list = new FeatureList(document.getElementById("pick"), (feature, entered) => {
    show(feature);
    if (entered) enter();
    location.replace(featureData.hash(feature));
  });

  function enter() {
    document.getElementById("feature-title").focus({ preventScroll: true });
    const { top } = article.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) article.scrollIntoView();
  }

  function show(feature) {
    if (shown === featureData.hash(feature)) return;
    shown = featureData.hash(feature);
    list.mark(feature);
    tell(feature);
  }

  async function tell(feature) {
    if (await showFeature(article, feature)) {
      status.textContent = `${featureData.title(feature)}: ${featureData.tokens(feature) || "never active"}`;
    }
  }

  function route() {
    // A link to what is shown, or a step back to it, leads there all the same.
    if (location.hash === shown) return section.contains(document.activeElement) ? undefined : enter();
    const feature = location.hash ? featureData.find(location.hash) : featureData.first();
    if (feature) {
      show(feature);
      if (location.hash) enter();
    } else if (feature === undefined) {
      shown = location.hash;
      showFeature.asked = null;
      plotting.forget(article);
      status.textContent = "There is no such feature on this page.";
      article.replaceChildren(element("p", {}, status.textContent));
    }
  }

  section.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select")) return;
    if (key === "j" || key === "k") list.move(key === "j" ? 1 : -1);
  });

  document.addEventListener("renamed", () => {
    if (!list.current) return;
    list.fill();
    tell(list.current);
  });
  addEventListener("hashchange", route);
  if (featureData.find(location.hash) === null) show(featureData.first());
  else route();
}

startFeatures();
