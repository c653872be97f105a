//! npm: the lock decides.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::debian;
use crate::npm::clean_install;
use crate::requires;
use crate::run::run;

/// A registry on a loopback port. It serves until the test program ends.
struct Registry {
    dir: TempDir,
    url: String,
    pages: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    published: Value,
}

impl Registry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let pages = Arc::new(Mutex::new(BTreeMap::<String, Vec<u8>>::new()));
        let served = Arc::clone(&pages);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = BufReader::new(&stream).lines().map_while(Result::ok);
                let path = head.next().unwrap_or_default();
                let path = path.split(' ').nth(1).unwrap_or_default().to_owned();
                head.find(String::is_empty);
                let page = served
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(&path)
                    .cloned();
                let status = if page.is_some() { "200 OK" } else { "404 Not Found" };
                let page = page.unwrap_or_default();
                let length = page.len();
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                )
                .unwrap();
                stream.write_all(&page).unwrap();
            }
        });
        Self {
            dir: tempfile::tempdir().unwrap(),
            url,
            pages,
            published: json!({}),
        }
    }

    fn publish(&mut self, name: &str, version: &str, dependencies: &Value) {
        let folder = self.dir.path().join(format!("{name}-{version}"));
        fs::create_dir(&folder).unwrap();
        let mut package = json!({"name": name, "version": version, "dependencies": dependencies});
        fs::write(folder.join("package.json"), package.to_string()).unwrap();
        let packed = run(self.npm(&["pack", "--json", "--silent"]).current_dir(&folder)).unwrap();
        let packed: Value = serde_json::from_str(&packed).unwrap();
        let file = packed[0]["filename"].as_str().unwrap();
        package["dist"] =
            json!({"tarball": format!("{}/{file}", self.url), "integrity": packed[0]["integrity"]});
        self.published[name]["name"] = json!(name);
        self.published[name]["dist-tags"]["latest"] = json!(version);
        self.published[name]["versions"][version] = package;
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.insert(format!("/{file}"), fs::read(folder.join(file)).unwrap());
        pages.insert(format!("/{name}"), self.published[name].to_string().into_bytes());
    }

    fn npm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(debian::find("npm").unwrap());
        command.args(arguments);
        self.point(&mut command);
        command
    }

    /// Makes a call of npm use this registry, and a cache of its own.
    fn point(&self, command: &mut Command) {
        command
            .env("npm_config_registry", &self.url)
            .env("npm_config_cache", self.dir.path().join("cache"))
            .env("npm_config_audit", "false")
            .env("npm_config_update_notifier", "false");
    }

    /// Installs from the lock in `dir`, as the real packages are installed.
    fn install(&self, dir: &Path) -> anyhow::Result<()> {
        let (node, npm) = (debian::find("node").unwrap(), debian::find("npm").unwrap());
        let mut command = clean_install(&node, &npm, dir);
        self.point(&mut command);
        run(&mut command).map(drop)
    }

    /// A folder of a package that needs `vmcp-app`, with the lock of the moment.
    fn locked(&self) -> PathBuf {
        let dir = self.dir.path().join("project");
        fs::create_dir(&dir).unwrap();
        let package = json!({"name": "project", "dependencies": {"vmcp-app": "1.0.0"}});
        fs::write(dir.join("package.json"), package.to_string()).unwrap();
        run(self.npm(&["install", "--package-lock-only"]).current_dir(&dir)).unwrap();
        dir
    }
}

/// A release that is newer than the lock changes nothing, and a lock that lacks a package is refused.
#[requires(npm)]
#[test]
fn npm_lock_decides_every_version() {
    let mut registry = Registry::start();
    registry.publish("vmcp-lib", "1.0.0", &json!({}));
    registry.publish("vmcp-app", "1.0.0", &json!({"vmcp-lib": "^1.0.0"}));
    let dir = registry.locked();
    registry.publish("vmcp-lib", "1.1.0", &json!({}));

    registry.install(&dir).unwrap();
    let installed = fs::read_to_string(dir.join("node_modules/vmcp-lib/package.json")).unwrap();
    let installed: Value = serde_json::from_str(&installed).unwrap();
    assert_eq!(installed["version"], "1.0.0");

    let lock = fs::read_to_string(dir.join("package-lock.json")).unwrap();
    let mut lock: Value = serde_json::from_str(&lock).unwrap();
    lock["packages"]
        .as_object_mut()
        .unwrap()
        .remove("node_modules/vmcp-lib");
    fs::write(dir.join("package-lock.json"), lock.to_string()).unwrap();
    let error = registry.install(&dir).unwrap_err().to_string();
    assert!(
        error.contains("vmcp-lib") && error.contains("from lock file"),
        "{error}"
    );
}
