//! What `strace` saw of one process, as the list of what happened to its folder and what it told.
//!
//! A call to the folder that this does not know ends the test: nothing is left out in silence. Two files do not matter:
//! the ballast, which has no content, and SQLite's `-shm`, made anew whenever the first process opens a database.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::ledger::Entry;
use super::script::Script;

/// Every call by which a file or its name can change, or be made to last.
const CALLS: &str = "open,openat,openat2,creat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,\
rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir,\
fsync,fdatasync,sync,syncfs,sync_file_range,mmap,msync,sendfile,copy_file_range,splice,io_uring_setup";

/// One thing that happened, with the lines of the trace where it began and ended.
#[derive(Clone, Debug)]
pub struct Event {
    pub began: usize,
    pub ended: usize,
    pub what: What,
}

/// Files by their names in the folder.
#[derive(Clone, Debug)]
pub enum What {
    Create(String),
    Write(String, u64, Vec<u8>),
    Truncate(String, u64),
    /// Room of zeros up to here.
    Reserve(String, u64),
    Rename(String, String),
    Unlink(String),
    Sync(String),
    SyncFolder,
    Told(Entry),
}

/// When the process is killed: as it enters its thread's `n`-th sync of the log.
#[derive(Clone, Copy, Debug)]
pub struct KillAtSync(pub u32);

/// Runs a script on the folder in a process of its own, and tells what happened.
pub fn of(script: Script, folder: &Path, kill: Option<KillAtSync>) -> Vec<Event> {
    let file = tempfile::NamedTempFile::new_in(super::fast_folder()).expect("a file");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-xx", "-qq", "-s", "1048576", "-o"]);
    strace.arg(file.path());
    strace.args(["-e", &format!("trace={CALLS}")]);
    if let Some(KillAtSync(n)) = kill {
        strace.args([
            "-e",
            &format!("inject=fsync,fdatasync:signal=KILL:when={n}"),
        ]);
    }
    strace.arg(std::env::current_exe().expect("this program"));
    strace.args([
        "powercut::script::driver",
        "--exact",
        "--ignored",
        "--nocapture",
    ]);
    let mut driver = strace
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace runs");
    let line = script.to_line(folder);
    let mut stdin = driver.stdin.take().expect("piped");
    std::io::Write::write_all(&mut stdin, line.as_bytes()).expect("written");
    drop(stdin);
    let ended = driver.wait().expect("waited");
    assert!(ended.success() || kill.is_some(), "{script:?}: {ended}");
    events(&fs::read_to_string(file.path()).expect("text"), folder)
}

fn events(text: &str, folder: &Path) -> Vec<Event> {
    let folder = folder.to_str().expect("text");
    let mut unfinished: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut events = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let (thread, call) = line.split_once(' ').expect("a thread and a call");
        let call = call.trim_start();
        if call.starts_with(['+', '-']) {
            continue;
        }
        if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (at, begun));
            continue;
        }
        let (began, call) = match call.strip_prefix("<... ") {
            None => (at, call.to_owned()),
            Some(rest) => {
                let (_, end) = rest.split_once("resumed>").expect("resumed");
                let (began, start) = unfinished.remove(thread).expect("begun");
                (began, format!("{start}{end}"))
            }
        };
        let what = what(&call, folder);
        events.extend(what.map(|what| Event {
            began,
            ended: at,
            what,
        }));
    }
    // What a killed process had begun may have been done, or not.
    for (began, call) in unfinished.into_values() {
        let assumed = format!("{call}) = 0");
        let what =
            what(&assumed, folder).filter(|what| !matches!(what, What::Sync(_) | What::SyncFolder));
        let ended = usize::MAX;
        events.extend(what.map(|what| Event { began, ended, what }));
    }
    events.sort_by_key(Event::takes_effect);
    events
}

impl Event {
    /// A change may be on the disk as soon as it has begun; a sync has synced once it is over.
    fn takes_effect(&self) -> usize {
        match self.what {
            What::Sync(_) | What::SyncFolder => self.ended,
            _ => self.began,
        }
    }
}

/// `None` if the call failed, or is none of the folder's.
fn what(call: &str, folder: &str) -> Option<What> {
    let (name, rest) = call.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with(['-', '?']) {
        return None;
    }
    let arguments: Vec<&str> = arguments
        .trim_end()
        .trim_end_matches(')')
        .split(", ")
        .collect();
    let number = |at: usize| -> u64 { arguments[at].trim().parse().expect("a number") };
    let opened = descriptor(arguments[0]).unwrap_or_default();
    let file = inside(&opened, folder);
    if name == "write" && arguments[0].starts_with("1<") {
        let line = String::from_utf8(bytes(arguments[1])).ok()?;
        return Entry::of_line(&line).map(What::Told);
    }
    match (name, file) {
        ("openat", _) if arguments[2].contains("O_CREAT") => {
            assert!(!arguments[2].contains("O_TRUNC"), "{name}");
            inside(&descriptor(result)?, folder).map(What::Create)
        }
        ("openat", _) => None,
        ("rename", _) => {
            let (from, to) = (path(arguments[0], folder)?, path(arguments[1], folder)?);
            Some(What::Rename(from, to))
        }
        ("unlink", _) => path(arguments[0], folder).map(What::Unlink),
        ("fsync" | "fdatasync", Some(file)) => Some(What::Sync(file)),
        ("fsync" | "fdatasync", None) => (opened == folder).then_some(What::SyncFolder),
        ("pwrite64", Some(file)) => {
            let bytes = bytes(arguments[1]);
            assert_eq!(bytes.len() as u64, number(2), "the trace is cut short");
            Some(What::Write(file, number(3), bytes))
        }
        ("ftruncate", Some(file)) => Some(What::Truncate(file, number(1))),
        ("fallocate", Some(file)) => Some(What::Reserve(file, number(2) + number(3))),
        ("mmap", _) => {
            let shared = arguments[3].contains("MAP_SHARED") && arguments[2].contains("PROT_WRITE");
            let mapped = descriptor(arguments[4]).and_then(|opened| inside(&opened, folder));
            assert!(
                !shared || mapped.is_none(),
                "a file is changed through memory: {mapped:?}"
            );
            None
        }
        (_, Some(file)) => panic!("{name} of {file} is not known here"),
        (_, None) => {
            let hex: String = folder
                .bytes()
                .map(|byte| format!("\\x{byte:02x}"))
                .collect();
            let known = name == "mkdir" || !call.contains(&format!("\"{hex}"));
            assert!(known, "{name} in the folder is not known here");
            None
        }
    }
}

/// The path of `5</the/path>`.
fn descriptor(text: &str) -> Option<String> {
    let (_, path) = text.trim().split_once('<')?;
    let hex = path.strip_suffix('>')?;
    String::from_utf8(unescaped(hex)).ok()
}

fn path(argument: &str, folder: &str) -> Option<String> {
    inside(&String::from_utf8(bytes(argument)).ok()?, folder)
}

fn inside(path: &str, folder: &str) -> Option<String> {
    let file = path.strip_prefix(folder)?.strip_prefix('/')?;
    matters(file).then(|| file.to_owned())
}

pub fn matters(file: &str) -> bool {
    !file.ends_with("-shm") && file != "ballast"
}

fn bytes(argument: &str) -> Vec<u8> {
    let text = argument
        .trim()
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    unescaped(text.expect("a whole string"))
}

fn unescaped(text: &str) -> Vec<u8> {
    let pairs = text.split("\\x").skip(1);
    pairs
        .map(|hex| u8::from_str_radix(hex, 16).expect("hex"))
        .collect()
}
