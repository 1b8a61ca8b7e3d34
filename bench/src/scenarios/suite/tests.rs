use serde_json::json;

use super::*;

fn options(dir: &Path, size: Size) -> Options {
    Options { size, seed: 1, clients: 8, resume: false, out_dir: dir.to_owned() }
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
                Work::Cost { .. } | Work::Storm { .. } => None,
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
    assert!(time(Size::Quick) < Duration::from_secs(600), "{:?}", time(Size::Quick));
    assert!(time(Size::Full) < Duration::from_secs(3 * 3_600), "{:?}", time(Size::Full));
}

fn report(parts: Vec<PartReport>, aims: Vec<AimRow>) -> Report {
    Report {
        scenario: "suite",
        form: 1,
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
    let aims = cost_aims(&json!({"sizes": [{"sessions": 1000, "bound_percent": 80.0}]}));
    assert_eq!((aims[0].seen, aims[0].met), (1.25, true));
    assert!(!cost_aims(&json!({"sizes": [{"sessions": 1000, "bound_percent": 40.0}]}))[0].met);
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
    let summary = fs::read_to_string(dir.path().join("summary.md")).unwrap();
    assert!(summary.contains("| gateway work per reattach, 1000 sessions |"), "{summary}");
}

/// R8.4: a part that is whole is not measured again, unless the commit is another one.
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
    result["environment"]["commit"] = json!("another");
    write_json(&path, &result).unwrap();
    assert!(!cost.is_done(&options).unwrap());
    fs::write(&path, "{").unwrap();
    assert!(!cost.is_done(&options).unwrap());
}
