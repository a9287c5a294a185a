// Starts what needs the server, and follows what it does.

// Which graph was open last, for as long as the tab is; browsers may refuse storage.
const exploreState = {
  opened(id) {
    try {
      sessionStorage.setItem("explore", id);
    } catch {
      // Then the last graph is opened again.
    }
  },

  last() {
    try {
      return sessionStorage.getItem("explore");
    } catch {
      return null;
    }
  },
};

function startExplorer() {
  const bar = new ExploreBar(document.getElementById("circuits"));
  const report = document.getElementById("explore-report");
  explorer.bar = bar;
  let isFirst = true;

  // The graph that was open, or the last one that there is.
  const reopen = () => {
    const done = jobs.all.filter(({ kind, state }) => state === "done" && (kind === "graph" || kind === "weights"));
    const on = done.filter(({ kind }) => kind === "graph");
    const last = done.find(({ id }) => id === exploreState.last()) ?? on.at(-1);
    if (last) bar.open(last);
    return Boolean(last);
  };
  let isOpened = false;

  jobs.listeners.push(() => {
    if (jobs.problem) return bar.tell(jobs.problem, true);
    if (isFirst) bar.begin(jobs.begin.prompt);
    isFirst = false;
    bar.update(jobs.all);
    if (!isOpened && !graphs.graphs.length) isOpened = reopen();
    if (report) showReport(report);
  });
  jobs.refresh();
}

// How far the rest of the page is; once it is whole it is shown, unless somebody is in the middle of something.
function showReport(place) {
  const job = jobs.report;
  if (jobs.whole) {
    if (place.dataset.whole) return;
    place.dataset.whole = "yes";
    if (!explorer.touched) return location.reload();
    place.replaceChildren("The rest of the page is ready. ", plainButton("Show it", () => location.reload()));
  } else if (job?.state === "failed") {
    place.replaceChildren(element("span", { class: "problem" }, `The rest of the page could not be made: ${job.message}`));
  } else if (job && jobs.goesOn(job)) {
    place.replaceChildren("The rest of the page is being made: features, layers, directions. ", progressLine(job));
  } else {
    place.replaceChildren("The rest of the page was not made.");
  }
}

for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => (explorer.touched = true), { once: true });
startExplorer();
