//! Opens a report in a headless browser and says what is wrong with it, for tests: words of its console, a table or a plot
//! that is cut off at the right, an empty page. Leaves a picture to be looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Names of Chromium and its relatives on PATH.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// What a test says that leaves its reports unopened.
pub const NONE: &str = "no Chromium opens its reports; `cargo xtask setup --browser` installs one";
/// Asks the page after it was laid out. What scrolls by itself is not cut, but a reader without a mouse sees it cut: it
/// counts.
const QUESTION: &str = "<script>window.addEventListener('load',()=>{const d=document.documentElement;\
    const wide=[...document.querySelectorAll('.wide')].filter(e=>e.scrollWidth>e.clientWidth+1).length;\
    document.body.setAttribute('data-answer',[d.scrollWidth-d.clientWidth,wide,\
    document.querySelectorAll('svg').length,document.body.innerText.length].join(' '));});</script>";

/// What a browser saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Pixels by which the page is wider than its window.
    pub too_wide: u64,
    /// Parts that do not fit and scroll.
    pub scrolling: u64,
    /// Plots.
    pub plots: u64,
    /// Characters of text.
    pub characters: u64,
    /// What the console said.
    pub console: Vec<String>,
    /// The picture.
    pub picture: PathBuf,
}

impl Opened {
    /// Whether everything is to be seen.
    ///
    /// # Errors
    /// What is not.
    pub fn judge(&self) -> Result<()> {
        ensure!(self.console.is_empty(), "the console says {:?}", self.console);
        ensure!(self.too_wide == 0, "the page is {} pixels wider than its window", self.too_wide);
        ensure!(self.scrolling == 0, "{} tables do not fit", self.scrolling);
        ensure!(self.characters > 200, "the page is nearly empty: {} characters", self.characters);
        Ok(())
    }
}

/// The browser of this machine, if there is one.
#[must_use]
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = std::env::split_paths(&path).collect();
    BROWSERS.iter().find_map(|name| dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()))
}

/// Opens a report in a window of this width; `picture` gets what is to be seen.
///
/// # Errors
/// The browser does not run, or does not answer.
pub fn open(browser: &Path, report: &Path, width: u32, picture: &Path) -> Result<Opened> {
    let what = || format!("cannot open {} with {}", report.display(), browser.display());
    let text = fs::read_to_string(report).with_context(what)?;
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let page = dir.path().join("asked.html");
    fs::write(&page, text.replace("</body>", &format!("{QUESTION}</body>"))).with_context(what)?;
    if let Some(parent) = picture.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let run = |what: String| {
        Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"])
            .args(["--disable-extensions", "--enable-logging=stderr", "--v=0"])
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .arg(format!("--window-size={width},2400"))
            .arg(what)
            .arg(format!("file://{}", page.display()))
            .stdin(Stdio::null())
            .output()
    };
    let dom = run("--dump-dom".to_owned()).with_context(what)?;
    let answer = String::from_utf8_lossy(&dom.stdout);
    let said = String::from_utf8_lossy(&dom.stderr);
    let numbers = answer.split_once("data-answer=\"").and_then(|(_, rest)| rest.split_once('"'));
    let numbers: Vec<u64> = numbers
        .map(|(numbers, _)| numbers.split(' ').filter_map(|number| number.parse().ok()).collect())
        .unwrap_or_default();
    let [too_wide, scrolling, plots, characters] = numbers.as_slice() else {
        anyhow::bail!("{}: it does not answer: {said}", what())
    };
    let shot = run(format!("--screenshot={}", picture.display())).with_context(what)?;
    ensure!(shot.status.success() && picture.is_file(), "{}: no picture", what());
    Ok(Opened {
        too_wide: *too_wide,
        scrolling: *scrolling,
        plots: *plots,
        characters: *characters,
        console: said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect(),
        picture: picture.to_owned(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A page that is whole, with so many plots, where there is a browser to ask.
    pub(crate) fn open_and_judge(page: &str, plots: u64) {
        let Some(seen) = seen(page, "page.png") else {
            jvpn_testing::left_out_in_part(NONE);
            return;
        };
        seen.judge().unwrap();
        assert_eq!(seen.plots, plots);
    }

    fn seen(page: &str, name: &str) -> Option<Opened> {
        let browser = find()?;
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().join("report.html");
        fs::write(&report, page).unwrap();
        Some(open(&browser, &report, 1_000, &dir.path().join(name)).unwrap())
    }

    /// R8.4: a page that is cut, empty or broken is found, and a good one is good: the check can fail.
    #[test]
    fn r8_4_a_cut_an_empty_and_a_broken_page_are_found() {
        let words = "word ".repeat(100);
        let page = |inside: &str| format!("{}{words}{inside}</body></html>", crate::page::head("x"));
        let Some(good) = seen(&page("<svg></svg>"), "good.png") else {
            jvpn_testing::left_out(NONE);
            return;
        };
        good.judge().unwrap();
        assert_eq!(good.plots, 1);
        let judged = |inside: &str| seen(&page(inside), "bad.png").unwrap().judge().unwrap_err().to_string();
        assert!(judged("<div style='width:1200px'>x</div>").contains("wider"));
        assert!(judged("<div class='wide'><div style='width:2000px'>x</div></div>").contains("do not fit"));
        assert!(judged("<script>no_such_thing()</script>").contains("console"));
        let empty = seen("<html><body></body></html>", "empty.png").unwrap();
        assert!(empty.judge().unwrap_err().to_string().contains("empty"));
    }
}
