use serde_json::json;

use super::*;

fn options(dir: &Path, size: Size) -> Options {
    Options { size, seed: 1, clients: 8, peers: false, resume: false, out_dir: dir.to_owned() }
}

/// R8.1: one command covers every row of the table of aims: 200 trials of each cause at 50 ms, 30 at 0, 5 and 150, the
/// blackhole with the preset `fintech` beside the default one, a reattach's cost, and a storm of 10,000.
#[test]
fn r8_1_the_suite_covers_every_aim() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = plan::parts(Size::Full).into_iter().map(|part| part.work).collect();
    let asked = |wanted: &str, at: u64, cause: recovery::Cause| {
        all.iter()
            .filter_map(|work| match work {
                Work::Recovery { preset, causes, rtts_ms, trials } => {
                    (*preset == wanted && rtts_ms.contains(&at) && causes.contains(&cause)).then_some(*trials)
                }
                Work::Cost { .. } | Work::Storm { .. } | Work::Peers { .. } => None,
            })
            .max()
    };
    for cause in recovery::Cause::ALL {
        // What strikes all clients at once is a trial of each.
        let each = if cause.is_common() { u32::from(options(dir.path(), Size::Full).clients) } else { 1 };
        let trials = |rtt: u64| asked("edge", rtt, cause).map(|incidents| incidents * each);
        assert!(trials(50) >= Some(200), "{cause}");
        assert!([0, 5, 150].into_iter().all(|rtt| trials(rtt) >= Some(30)), "{cause}");
    }
    assert_eq!(asked("fintech", 50, recovery::Cause::SilentBlackhole), Some(200));
    assert!(all.iter().any(|work| matches!(work, Work::Storm { sessions: 10_000, .. })));
    assert!(all.iter().any(|work| matches!(work, Work::Cost { .. })));
    let time = |size| -> Duration {
        plan::parts(size).iter().map(|part| part.estimate(&options(dir.path(), size)).unwrap()).sum()
    };
    assert!(time(Size::Smoke) < Duration::from_secs(60), "{:?}", time(Size::Smoke));
    assert!(time(Size::Quick) < Duration::from_secs(600), "{:?}", time(Size::Quick));
    assert!(time(Size::Full) < Duration::from_secs(3 * 3_600), "{:?}", time(Size::Full));
}

fn report(parts: Vec<PartReport>, aims: Vec<AimRow>) -> Report {
    Report {
        scenario: "suite".to_owned(),
        form: 2,
        valid: true,
        complete: false,
        problems: Vec::new(),
        broken_off: None,
        size: Size::Quick,
        seed: 1,
        clients: 4,
        took_s: 61.0,
        environment: json!(Environment::collect()),
        parts,
        aims,
    }
}

fn part(valid: bool, complete: bool) -> PartReport {
    PartReport {
        name: "default-50".to_owned(),
        what: "default policy".to_owned(),
        preset: Some("edge".to_owned()),
        valid,
        complete,
        problems: if valid { Vec::new() } else { vec!["a doubled event".to_owned()] },
        causes: Vec::new(),
        body: "<p>its page</p>".to_owned(),
    }
}

/// R8.1, R8.4: the whole is as valid and as complete as its parts, fits its schema, and has pages.
#[test]
fn r8_4_the_whole_is_what_its_parts_are() {
    let dir = tempfile::tempdir().unwrap();
    let (aims, _) = cost_aims(&json!({"sizes": [{"sessions": 1000, "bound_percent": 80.0}]}));
    assert_eq!((aims[0].seen, aims[0].met), (1.25, true));
    assert!(!cost_aims(&json!({"sizes": [{"sessions": 1000, "bound_percent": 40.0}]})).0[0].met);
    let concluded = |parts: Vec<PartReport>| {
        let mut whole = report(parts, aims.clone());
        whole.conclude(2);
        whole.write(dir.path()).unwrap();
        (whole.valid, whole.complete)
    };
    assert_eq!(concluded(vec![part(true, true), part(true, true)]), (true, true));
    assert_eq!(concluded(vec![part(true, true)]), (true, false), "one is not there");
    assert_eq!(concluded(vec![part(true, true), part(true, false)]), (true, false));
    assert_eq!(concluded(vec![part(true, true), part(false, true)]), (false, true));
    let html = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(html.contains("INVALID") && html.contains("a doubled event") && html.contains("its page"));
    assert!(!html.contains("say nothing"));
    let smoke = Report { size: Size::Smoke, ..report(Vec::new(), Vec::new()) };
    let lab = tempfile::tempdir().unwrap();
    smoke.write(lab.path()).unwrap();
    for page in ["report.html", "summary.md"] {
        assert!(fs::read_to_string(lab.path().join(page)).unwrap().contains("figures say nothing"), "{page}");
    }
    let summary = fs::read_to_string(dir.path().join("summary.md")).unwrap();
    assert!(summary.contains("| work of the gateway's engine per reattach, 1000 sessions |"), "{summary}");
}

/// R8.1, R8.4: an aim without a figure is not left out of the table in silence: its part, and so the suite, is INVALID.
#[test]
fn r8_1_an_aim_without_a_figure_is_a_problem() {
    let cost = |percent: Value| {
        json!({"sizes": [
            {"sessions": 1000, "bound_percent": 80.0}, {"sessions": 10_000, "bound_percent": percent}]})
    };
    assert_eq!(cost_aims(&cost(json!(75.0))).1, Vec::<String>::new());
    for bad in [json!(null), json!(0.0), json!("75")] {
        let (rows, missing) = cost_aims(&cost(bad.clone()));
        assert_eq!((rows.len(), missing.len()), (1, 1));
        assert!(missing[0].contains("10000 sessions: not judged") && missing[0].contains(&bad.to_string()));
    }
    assert_eq!(cost_aims(&json!({})).1.len(), 1, "nothing was measured");
    let row = json!({"what": "all ATTACHED, s", "at_most": 2.5, "seen": 2.0, "met": true});
    assert_eq!(storm_aims(&json!({"aims": [row]})).1, Vec::<String>::new());
    for bad in [json!({"aims": []}), json!({"aims": [row, {"what": "no figure", "seen": null}]})] {
        assert_eq!(storm_aims(&bad).1.len(), 1, "{bad}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("result.json"), cost(json!(null)).to_string()).unwrap();
    let parts = plan::parts(Size::Quick);
    let part = parts.iter().find(|part| part.name == "cost").unwrap();
    let (part, rows) = part.taken_over(dir.path(), cost_aims).unwrap();
    let mut whole = report(vec![part], rows);
    whole.conclude(1);
    assert!(
        !whole.valid && whole.problems[0].starts_with("cost: work of the gateway"),
        "{:?}",
        whole.problems
    );
}

/// R8.4: a part that is whole is not measured again, unless machine or build is another one.
#[test]
fn r8_4_a_finished_part_is_not_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let parts = plan::parts(Size::Quick);
    let cost = parts.iter().find(|part| part.name == "cost").unwrap();
    let options = Options { resume: true, ..options(dir.path(), Size::Quick) };
    assert!(!cost.is_done(&options).unwrap());
    let path = cost.dir(&options).unwrap().join("result.json");
    let mut result = json!({"valid": true, "environment": Environment::collect()});
    write_json(&path, &result).unwrap();
    assert!(cost.is_done(&options).unwrap());
    assert!(!cost.is_done(&Options { resume: false, ..options.clone() }).unwrap());
    let others = ["/commit", "/changed", "/kernel", "/cpu", "/programs/jvpn-bench"];
    for other in others {
        let mut one = result.clone();
        *one["environment"].pointer_mut(other).unwrap() = json!("another");
        write_json(&path, &one).unwrap();
        assert!(!cost.is_done(&options).unwrap(), "{other}");
    }
    // Where nothing was kept of the programs, nobody knows.
    result["environment"]["programs"] = json!(null);
    write_json(&path, &result).unwrap();
    assert!(!cost.is_done(&options).unwrap());
    fs::write(&path, "{").unwrap();
    assert!(!cost.is_done(&options).unwrap());
}

/// R8.4: what a suite of another size has finished is not taken over.
#[test]
fn r8_4_a_suite_of_another_size_does_not_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let resumed = |size| Options { resume: true, ..options(dir.path(), size) };
    assert_eq!(may_go_on(&resumed(Size::Full)).unwrap(), 0.0, "nothing is there");
    report(Vec::new(), Vec::new()).write(dir.path()).unwrap();
    assert_eq!(may_go_on(&resumed(Size::Quick)).unwrap(), 61.0, "what it took until now counts");
    let error = may_go_on(&resumed(Size::Full)).unwrap_err().to_string();
    assert!(error.contains("quick") && error.contains("full") && error.contains("--out"), "{error}");
    may_go_on(&options(dir.path(), Size::Full)).unwrap();
}

/// R8.4: a second suite in the directory of a finished one refuses before it writes anything, whatever size it had.
#[test]
fn r8_4_a_finished_suite_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let all = vec![part(true, true)];
    report(all, Vec::new()).write(dir.path()).unwrap();
    let journal = dir.path().join("kills-others/trials.jsonl");
    fs::create_dir(journal.parent().unwrap()).unwrap();
    let files = ["result.json", "report.html", "summary.md"].map(|name| dir.path().join(name));
    let content = || files.each_ref().map(|file| fs::read(file).unwrap());
    let before = content();
    fs::write(&journal, "{\"question\":{}}\n").unwrap();
    may_go_on(&options(dir.path(), Size::Quick)).unwrap();
    fs::write(&journal, "{\"question\":{}}\n{\"segment\":1}\n{\"trial\":{}}\n").unwrap();
    for size in [Size::Full, Size::Quick, Size::Smoke] {
        let error = run(&options(dir.path(), size), &Interrupt::default()).unwrap_err().to_string();
        assert!(error.contains("has a suite with trials: go on with --resume"), "{error}");
    }
    assert_eq!(content(), before);
    assert!(!dir.path().join("reserve").exists());
}

/// R8.1: what stands beside the peers is what the suite's own part has: causes, round-trip time, clients; ten trials each,
/// and it is told how long the worst of them takes.
#[test]
fn r8_1_peers_are_asked_what_ours_was() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { peers: true, ..options(dir.path(), Size::Full) };
    let Work::Peers { causes, trials, cap } = plan::peers(Size::Full).work else { panic!("no peers") };
    let asked = plan::beside_options((&causes, trials, cap), &options, &dir.path().join("peers"));
    assert_eq!((asked.trials, asked.clients, asked.rtt.as_millis()), (10, options.clients, 50));
    assert_eq!(asked.beside, Some(dir.path().join(BESIDE_PEERS)));
    let ours: Vec<_> = plan::parts(Size::Full)
        .into_iter()
        .filter_map(|part| match part.work {
            Work::Recovery { causes, rtts_ms, .. } if rtts_ms == [50] => Some(causes),
            Work::Recovery { .. } | Work::Cost { .. } | Work::Storm { .. } | Work::Peers { .. } => None,
        })
        .flatten()
        .collect();
    assert!(asked.causes.iter().all(|cause| ours.contains(cause)));
    let alone = recovery::beside::estimate(&asked, &[Kind::Ours]);
    let beside = recovery::beside::estimate(&asked, &[Kind::Ours, Kind::Gotatun]);
    assert!(alone > Duration::from_secs(30) && beside > alone + cap * 4, "{alone:?}, {beside:?}");
}

/// R8.4: a peer that failed does not make a suite a part, nor is it asked again; what broke the run off does, and a run
/// that was left without a single trial.
#[test]
fn r8_4_a_peers_failure_is_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { resume: true, ..options(dir.path(), Size::Smoke) };
    let part = plan::peers(Size::Smoke);
    let path = part.dir(&options).unwrap().join("result.json");
    let put = |broken_off: Value, causes: Value| {
        let result = json!({"complete": false, "broken_off": broken_off, "causes": causes,
            "environment": Environment::collect()});
        write_json(&path, &result).unwrap();
        (
            part.is_done(&options).unwrap(),
            part.taken_over(path.parent().unwrap(), |_| (Vec::new(), Vec::new())).unwrap().0.complete,
        )
    };
    let rows = json!([{"contender": "ours"}]);
    assert_eq!(put(Value::Null, rows.clone()), (true, true));
    assert_eq!(part.estimate(&options).unwrap(), Duration::ZERO);
    assert_eq!(put(json!("interrupted"), rows.clone()), (false, false));
    assert_eq!(put(json!("the disk is full"), json!([])), (false, false));
    assert_eq!(put(Value::Null, json!([])), (false, false));
}
