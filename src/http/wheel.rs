//! The Python client at `/clients/`: a wheel of `clients/python`, written here, so that a lab without internet has the client of
//! its server's version. The pages around it are an index for pip (PEP 503).

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::OnceLock;

use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_embed::RustEmbed;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::{AppState, Kind, Problem};

#[derive(RustEmbed)]
#[folder = "clients/python"]
#[include = "src/mediant/*.py"]
#[include = "src/mediant/py.typed"]
#[include = "pyproject.toml"]
#[include = "README.md"]
struct Files;

/// What of `pyproject.toml` the metadata are made from.
#[derive(Deserialize)]
struct Manifest {
    project: Project,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Project {
    name: String,
    version: String,
    description: String,
    requires_python: String,
    dependencies: Vec<String>,
    optional_dependencies: std::collections::BTreeMap<String, Vec<String>>,
}

struct Wheel {
    name: String,
    bytes: Vec<u8>,
    sha256: String,
    requires_python: String,
}

/// The routes of this module. They are no part of the API, so its document does not have them.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/clients", get(async || Redirect::permanent("/clients/")))
        .route("/clients/", get(projects))
        .route("/clients/mediant", get(async || Redirect::permanent("/clients/mediant/")))
        .route("/clients/mediant/", get(files))
        .route("/clients/{wheel}", get(file))
}

async fn projects() -> Response {
    with(|wheel| {
        let name = &wheel.name;
        listing(&format!(
            "<p>The Python client of this server. With the address of this page:</p><pre>pip install ADDRESS{name}</pre>\
             <p>Data frames and figures need <code>pip install pandas matplotlib</code> as well.</p>\
             <a href=\"/clients/mediant/\">mediant</a>"
        ))
    })
}

async fn files() -> Response {
    with(|wheel| {
        let Wheel { name, sha256, .. } = wheel;
        let python = wheel.requires_python.replace('>', "&gt;").replace('<', "&lt;");
        listing(&format!(
            "<a href=\"/clients/{name}#sha256={sha256}\" data-requires-python=\"{python}\">{name}</a>"
        ))
    })
}

async fn file(Path(asked): Path<String>) -> Result<Response, Problem> {
    with(|wheel| {
        if wheel.name != asked {
            let detail = format!("this server has no file {asked:?}; its client is /clients/{}", wheel.name);
            return Err(Problem::new(Kind::NotFound, detail));
        }
        let kind = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-cache")];
        Ok((kind, wheel.bytes.clone()).into_response())
    })
}

fn listing(body: &str) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    let guard = [(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'")];
    let title = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>mediant for Python</title></head>";
    (kind, guard, format!("{title}<body>{body}</body></html>")).into_response()
}

/// Gives `read` the wheel; in a debug build that of the files as they are now.
fn with<R>(read: impl FnOnce(&Wheel) -> R) -> R {
    static WHEEL: OnceLock<Wheel> = OnceLock::new();
    if cfg!(debug_assertions) { read(&Wheel::new()) } else { read(WHEEL.get_or_init(Wheel::new)) }
}

impl Wheel {
    fn new() -> Self {
        let project = manifest().project;
        let Project { name, version, requires_python, .. } = &project;
        let info = format!("{name}-{version}.dist-info");
        let mut names: Vec<_> = Files::iter().filter(|file| file.starts_with("src/")).collect();
        names.sort();
        let mut files: Vec<(String, Vec<u8>)> = names
            .iter()
            .filter_map(|file| {
                Some((file.strip_prefix("src/")?.to_owned(), Files::get(file)?.data.into_owned()))
            })
            .collect();
        files.push((format!("{info}/METADATA"), metadata(&project).into_bytes()));
        let tags = "Wheel-Version: 1.0\nGenerator: mediant\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
        files.push((format!("{info}/WHEEL"), tags.as_bytes().to_vec()));
        let mut record: Vec<String> = files
            .iter()
            .map(|(path, bytes)| {
                format!("{path},sha256={},{}\n", URL_SAFE_NO_PAD.encode(Sha256::digest(bytes)), bytes.len())
            })
            .collect();
        record.push(format!("{info}/RECORD,,\n"));
        files.push((format!("{info}/RECORD"), record.concat().into_bytes()));
        let bytes = zipped(&files).expect("BUG: a zip in memory cannot fail to be written");
        let mut sha256 = String::new();
        for byte in Sha256::digest(&bytes) {
            let _ = write!(sha256, "{byte:02x}");
        }
        Self {
            name: format!("{name}-{version}-py3-none-any.whl"),
            bytes,
            sha256,
            requires_python: requires_python.clone(),
        }
    }
}

fn manifest() -> Manifest {
    let file = Files::get("pyproject.toml").expect("BUG: pyproject.toml is embedded");
    toml::from_str(&String::from_utf8_lossy(&file.data)).expect("BUG: pyproject.toml is read by a test")
}

/// The core metadata, version 2.1: what a build by pip would say of the same manifest.
fn metadata(project: &Project) -> String {
    let mut lines = vec![
        "Metadata-Version: 2.1".to_owned(),
        format!("Name: {}", project.name),
        format!("Version: {}", project.version),
        format!("Summary: {}", project.description),
        format!("Requires-Python: {}", project.requires_python),
    ];
    lines.extend(project.dependencies.iter().map(|needed| format!("Requires-Dist: {needed}")));
    for (extra, needed) in &project.optional_dependencies {
        lines.push(format!("Provides-Extra: {extra}"));
        lines.extend(needed.iter().map(|needed| format!("Requires-Dist: {needed}; extra == '{extra}'")));
    }
    let about = Files::get("README.md").map(|file| String::from_utf8_lossy(&file.data).into_owned());
    format!("{}\nDescription-Content-Type: text/markdown\n\n{}", lines.join("\n"), about.unwrap_or_default())
}

/// A zip whose bytes follow from its files alone: no time, one mode.
fn zipped(files: &[(String, Vec<u8>)]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .last_modified_time(zip::DateTime::default())
        .unix_permissions(0o644);
    for (path, bytes) in files {
        zip.start_file(path.as_str(), options)?;
        zip.write_all(bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wheel_is_the_same_each_time_and_of_the_server_s_version() {
        let (one, other) = (Wheel::new(), Wheel::new());
        assert!(one.bytes == other.bytes && one.bytes.len() > 10_000);
        assert_eq!(one.name, format!("mediant-{}-py3-none-any.whl", env!("CARGO_PKG_VERSION")));
    }
}
