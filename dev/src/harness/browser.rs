//! A real browser: Chromium without a window, led by its DevTools protocol. Every name leads to this machine, and every
//! certificate is good to it.

mod deaf;

use super::{PATIENCE, Process};
use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// Its program, by the names that systems give it. `PLANE_BROWSER` names another.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
/// How often it is asked whether something has come about.
const PAUSE: Duration = Duration::from_millis(20);
/// It speaks to nobody but the test.
const OPTIONS: [&str; 14] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--mute-audio",
    "--ignore-certificate-errors",
    "--host-resolver-rules=MAP * 127.0.0.1",
    "--remote-debugging-port=0",
];

/// A running browser with one page.
#[derive(Debug)]
pub struct Browser {
    _process: Process,
    folder: tempfile::TempDir,
    devtools: WebSocketStream<TcpStream>,
    last_id: u64,
    page: Target,
    events: Vec<Value>,
}

/// A page, or a frame of another site's in it, that can be asked things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(String);

impl Browser {
    /// Starts one.
    ///
    /// # Errors
    /// Where there is none, or it does not come up.
    pub async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let profile = folder.path().join("profile");
        let mut command = Command::new(program());
        command.args(OPTIONS).arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        deaf::make(&mut command);
        let process = Process::start("the browser", command, &folder.path().join("log"))?;
        let (port, path) = endpoint(&profile.join("DevToolsActivePort"), &process).await?;
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let url = format!("ws://127.0.0.1:{port}{path}");
        let (devtools, _) = client_async_with_config(url, stream, Some(config)).await?;
        let page = Target(String::new());
        let mut browser = Self { _process: process, folder, devtools, last_id: 0, page, events: Vec::new() };
        let made = browser.command(None, "Target.createTarget", json!({ "url": "about:blank" })).await?;
        browser.page = browser.attach(&made["targetId"]).await?;
        for domain in ["Page.enable", "Network.enable", "DOM.enable"] {
            browser.command(Some(&browser.page()), domain, json!({})).await?;
        }
        Ok(browser)
    }

    /// Its page.
    pub fn page(&self) -> Target {
        self.page.clone()
    }

    /// A folder for what the test and the browser exchange.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Opens a URL in its page, and waits until that is loaded.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub async fn go(&mut self, url: &str) -> Result<()> {
        let page = self.page();
        let gone = self.command(Some(&page), "Page.navigate", json!({ "url": url })).await?;
        if let Some(error) = gone["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        self.until(&page, "document.readyState === 'complete'").await
    }

    /// Evaluates an expression; what is promised is waited for.
    ///
    /// # Errors
    /// Where it throws.
    pub async fn ask(&mut self, target: &Target, expression: &str) -> Result<Value> {
        let how = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let answer = self.command(Some(target), "Runtime.evaluate", how).await?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// Where it does not become so.
    pub async fn until(&mut self, target: &Target, expression: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            // While a page gives way to another, there is nobody to ask.
            let last = self.ask(target, expression).await;
            if matches!(last, Ok(Value::Bool(true))) {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                let shown = self.ask(target, "location.href + '\\n' + document.documentElement.outerHTML").await;
                bail!("{expression} does not become true: {last:?}; {shown:?}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The frame of another site's whose URL has `part` in it, once it is there.
    ///
    /// # Errors
    /// Where it does not come.
    pub async fn frame(&mut self, part: &str) -> Result<Target> {
        let began = Instant::now();
        loop {
            let all = self.command(None, "Target.getTargets", json!({})).await?;
            let mut frames = all["targetInfos"].as_array().into_iter().flatten();
            let is_it =
                |info: &&Value| info["type"] == "iframe" && info["url"].as_str().is_some_and(|url| url.contains(part));
            let found = frames.find(is_it);
            if let Some(info) = found {
                let id = info["targetId"].clone();
                return self.attach(&id).await;
            }
            ensure!(began.elapsed() < PATIENCE, "no frame with {part}: {all}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Chooses a file in the page, as a person does.
    ///
    /// # Errors
    /// Where the page has no such field.
    pub async fn choose_file(&mut self, selector: &str, file: &Path) -> Result<()> {
        let page = self.page();
        let document = self.command(Some(&page), "DOM.getDocument", json!({})).await?;
        let which = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
        let field = self.command(Some(&page), "DOM.querySelector", which).await?;
        let files = json!({ "nodeId": field["nodeId"], "files": [file] });
        self.command(Some(&page), "DOM.setFileInputFiles", files).await?;
        Ok(())
    }

    /// Lets it keep downloads in a folder.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn download_to(&mut self, folder: &Path) -> Result<()> {
        let how = json!({ "behavior": "allow", "downloadPath": folder });
        self.command(None, "Browser.setDownloadBehavior", how).await.map(|_| ())
    }

    /// What it has told of a kind until now, such as `Network.webSocketHandshakeResponseReceived`.
    pub fn events(&self, method: &str) -> Vec<Value> {
        let of_kind = self.events.iter().filter(|event| event["method"] == method);
        of_kind.map(|event| event["params"].clone()).collect()
    }

    async fn attach(&mut self, id: &Value) -> Result<Target> {
        let session = self.command(None, "Target.attachToTarget", json!({ "targetId": id, "flatten": true })).await?;
        Ok(Target(session["sessionId"].as_str().context("no session")?.to_owned()))
    }

    async fn command(&mut self, target: Option<&Target>, method: &str, params: Value) -> Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        let mut said = json!({ "id": id, "method": method, "params": params });
        if let Some(Target(session)) = target {
            said["sessionId"] = json!(session);
        }
        self.devtools.send(Message::text(said.to_string())).await?;
        let answered = tokio::time::timeout(PATIENCE, self.answer(id)).await;
        answered.with_context(|| format!("the browser does not answer {method}"))?.with_context(|| method.to_owned())
    }

    async fn answer(&mut self, id: u64) -> Result<Value> {
        loop {
            let Message::Text(text) = self.devtools.next().await.context("the browser has gone")?? else { continue };
            let mut told: Value = serde_json::from_str(&text)?;
            if told["id"] == id {
                ensure!(told.get("error").is_none(), "{}", told["error"]);
                return Ok(told["result"].take());
            }
            if told.get("method").is_some() {
                self.events.push(told);
            }
        }
    }
}

/// Where it can be led, as it writes down itself.
async fn endpoint(file: &Path, process: &Process) -> Result<(u16, String)> {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if let Some((port, path)) = text.split_once('\n') {
            return Ok((port.parse()?, path.trim().to_owned()));
        }
        ensure!(began.elapsed() < PATIENCE, "the browser does not come up: {}", process.log());
        tokio::time::sleep(PAUSE).await;
    }
}

fn program() -> PathBuf {
    if let Some(given) = std::env::var_os("PLANE_BROWSER") {
        return given.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).flat_map(|folder| PROGRAMS.map(|name| folder.join(name)));
    all.into_iter().find(|file| file.is_file()).unwrap_or_else(|| PROGRAMS[0].into())
}
