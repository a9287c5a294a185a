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

  // The graph of the address, the one that was open, or the last one that there is.
  const reopen = () => {
    const done = jobs.all.filter(({ kind, state }) => state === "done" && (kind === "graph" || kind === "weights"));
    const last = done.find(({ id }) => id === exploreState.last()) ?? done.findLast(({ kind }) => kind === "graph");
    if (!last) return false;
    const others = done.filter((job) => job !== last).reverse();
    reopenAddress(bar, [last, ...others]).then((isShown) => isShown || bar.open(last, false));
    return true;
  };
  let isOpened = false;

  addEventListener("hashchange", () => bar.followCircuit());
  jobs.listeners.push(() => {
    if (jobs.problem) return bar.tell(jobs.problem, true);
    if (isFirst) {
      bar.begin(jobs.begin.prompt);
      bar.followCircuit();
    }
    isFirst = false;
    bar.update(jobs.all);
    if (!isOpened && !graphs.graphs.length) isOpened = reopen();
    if (report) showReport(report);
  });
  jobs.refresh();
}

// Shows the view that the address stands for, if one of these jobs made its graph; whether one did.
async function reopenAddress(bar, done) {
  if (!graphAddress.names(location.hash)) return false;
  for (const job of done) {
    try {
      const graph = bar.graph(job, await server.result(job.id));
      if (graphAddress.names(location.hash) !== graph.key) continue;
      exploreState.opened(job.id);
      return graphs.route();
    } catch {
      // It was removed meanwhile.
    }
  }
  return false;
}

// How far the rest of the page is; once it is whole it is shown, unless somebody is in the middle of something.
function showReport(place) {
  const job = jobs.report;
  if (jobs.whole) {
    if (place.dataset.whole) return;
    place.dataset.whole = "yes";
    if (!explorer.touched) return location.reload();
    place.replaceChildren("The rest of the page is ready. ", button({}, () => location.reload(), "Show it"));
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
