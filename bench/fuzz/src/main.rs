//! Lists the targets, writes their seeds, runs one input: what `cargo xtask fuzz` and people need beside libFuzzer.
#![allow(clippy::print_stdout, reason = "a command-line tool: standard output is its interface")]

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "jvpn-fuzz list | seeds TARGET DIRECTORY | run TARGET FILE...";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["list"] => {
            jvpn_fuzz::TARGETS.iter().for_each(|target| println!("{}", target.name));
            Ok(())
        }
        ["seeds", name, directory] => seeds(name, Path::new(directory)),
        ["run", name, files @ ..] if !files.is_empty() => files.iter().try_for_each(|file| run(name, file)),
        _ => Err(USAGE.to_owned()),
    };
    let Err(message) = outcome else { return ExitCode::SUCCESS };
    eprintln!("error: {message}");
    ExitCode::FAILURE
}

fn seeds(name: &str, directory: &Path) -> Result<(), String> {
    let target = jvpn_fuzz::target(name).ok_or_else(|| format!("there is no target '{name}'"))?;
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(directory).map_err(failed)?;
    for (number, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{number:03}")), seed).map_err(failed)?;
    }
    Ok(())
}

fn run(name: &str, file: &str) -> Result<(), String> {
    let data = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
    jvpn_fuzz::target(name).ok_or_else(|| format!("there is no target '{name}'"))?;
    jvpn_fuzz::run(name, &data);
    println!("{file}: {} octets, nothing broken", data.len());
    Ok(())
}
