//! Requests to a server, and its refusals in words.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use mediant::spec::kind::Kind;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Certificate, Method, RequestBuilder, Response, StatusCode, Url, header};
use serde_json::Value;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A server.
pub(super) struct Server {
    http: reqwest::Client,
    url: Url,
}

/// What the server said to a request that it will not serve, however often it is sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("{0} does not answer; is the server running? Name another with --server URL")]
pub(crate) struct Away(Url);

/// A job as the server describes it.
pub(super) struct Job(Value);

impl Job {
    pub(super) fn id(&self) -> anyhow::Result<&str> {
        self.text("id")
    }

    pub(super) fn state(&self) -> anyhow::Result<&str> {
        self.text("state")
    }

    /// Why it failed.
    pub(super) fn error(&self) -> Option<&str> {
        self.0.get("error").and_then(Value::as_str)
    }

    /// Seconds from when it was begun until it was over.
    pub(super) fn took(&self) -> Option<f64> {
        let at = |name| {
            let text = self.0.get(name).and_then(Value::as_str)?;
            chrono::DateTime::parse_from_rfc3339(text).ok()
        };
        Some((at("finished")? - at("started")?).num_milliseconds() as f64 / 1000.0)
    }

    /// Units done, and units in all.
    pub(super) fn progress(&self) -> (u64, u64) {
        let of = |name| self.0.pointer(name).and_then(Value::as_u64).unwrap_or(0);
        (of("/progress/done"), of("/progress/total"))
    }

    /// Jobs before it.
    pub(super) fn position(&self) -> Option<u64> {
        self.0.get("position").and_then(Value::as_u64)
    }

    fn text(&self, name: &str) -> anyhow::Result<&str> {
        let text = self.0.get(name).and_then(Value::as_str);
        text.with_context(|| {
            format!("the server's answer has no {name}: is it a mediant server of this version?")
        })
    }
}

impl Server {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let mut url =
            Url::parse(url).with_context(|| format!("{url:?} is not an address; write http://HOST:PORT"))?;
        if !["http", "https"].contains(&url.scheme()) {
            bail!("{url} is not an address; write http://HOST:PORT");
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let builder = reqwest::Client::builder().connect_timeout(CONNECT).default_headers(authorization()?);
        let builder = match std::env::var_os("MEDIANT_CA_CERT").filter(|file| !file.is_empty()) {
            Some(file) => builder.add_root_certificate(authority(Path::new(&file))?),
            None => builder,
        };
        Ok(Self { http: builder.build().context("cannot make a client")?, url })
    }

    /// What the server says to a request with or without a body.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let request = self.request(method, path)?;
        json(
            self.send(match body {
                Some(body) => request.json(body),
                None => request,
            })
            .await?,
        )
        .await
    }

    /// What there is at a path.
    pub(super) async fn list(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        json(self.send(self.request(Method::GET, path)?.query(query)).await?).await
    }

    /// Stores cases; the set as the server describes it.
    pub(super) async fn upload(
        &self,
        media_type: &str,
        cases: String,
        name: Option<&str>,
    ) -> anyhow::Result<Value> {
        let request = self.request(Method::POST, "/v1/datasets")?.header(header::CONTENT_TYPE, media_type);
        let request = request.query(&name.map(|name| ("name", name)).as_slice()).body(cases);
        json(self.send(request).await?).await
    }

    pub(super) async fn submit(&self, kind: Kind, body: &Value, key: Option<&str>) -> anyhow::Result<Job> {
        let path = format!("/v1/{}", kind.name());
        let mut request = self.request(Method::POST, &path)?.header("prefer", "respond-async").json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        json(self.send(request).await?).await.map(Job)
    }

    pub(super) async fn job(&self, id: &str) -> anyhow::Result<Job> {
        json(self.send(self.request(Method::GET, &format!("/v1/jobs/{id}"))?).await?).await.map(Job)
    }

    pub(super) async fn cancel(&self, id: &str) -> anyhow::Result<Job> {
        json(self.send(self.request(Method::DELETE, &format!("/v1/jobs/{id}"))?).await?).await.map(Job)
    }

    /// What a job found, as a file.
    pub(super) async fn fetch(
        &self,
        id: &str,
        what: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<Vec<u8>> {
        self.bytes(&format!("/v1/jobs/{id}/{what}"), query).await
    }

    /// What there is at a path, whatever it is.
    pub(super) async fn bytes(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Vec<u8>> {
        let response = self.send(self.request(Method::GET, path)?.query(query)).await?;
        Ok(response.bytes().await.context("the answer broke off")?.to_vec())
    }

    /// The events after one.
    pub(super) async fn events(&self, id: &str, after: i64) -> anyhow::Result<Response> {
        let request = self.request(Method::GET, &format!("/v1/jobs/{id}/events"))?;
        self.send(request.header("last-event-id", after)).await
    }

    fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        // A server may lie below a path of a proxy.
        let url =
            self.url.join(path.trim_start_matches('/')).with_context(|| format!("{path:?} is no path"))?;
        Ok(self.http.request(method, url))
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.with_context(|| Away(self.url.clone()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let refusal = refusal(status.as_u16(), &text);
        if status.is_client_error() { Err(Refused(refusal).into()) } else { bail!("{refusal}") }
    }
}

/// The certificate of who vouches for the server's, where that is nobody whom browsers know.
fn authority(file: &Path) -> anyhow::Result<Certificate> {
    let of = || format!("$MEDIANT_CA_CERT ({}) is not a file with a certificate in PEM", file.display());
    Certificate::from_pem(&std::fs::read(file).with_context(of)?).with_context(of)
}

/// The token in `MEDIANT_KEY` as a header. Not a flag: other users of the machine see those.
fn authorization() -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    if let Ok(token) = std::env::var("MEDIANT_KEY")
        && !token.is_empty()
    {
        // What is wrong with it is not said: that would show it.
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_| anyhow::anyhow!("$MEDIANT_KEY is not a key's token"))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(headers)
}

async fn json(response: Response) -> anyhow::Result<Value> {
    if response.status() == StatusCode::NO_CONTENT {
        return Ok(Value::Null);
    }
    response.json().await.context("the answer is not JSON: is it a mediant server?")
}

/// A problem document in lines for people.
fn refusal(status: u16, text: &str) -> String {
    let Ok(problem) = serde_json::from_str::<Value>(text) else {
        return format!("the server answered {status}: {}", text.chars().take(500).collect::<String>());
    };
    let of =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let errors = problem.get("errors").and_then(Value::as_array).cloned().unwrap_or_default();
    let title = of(&problem, "title");
    if errors.is_empty() {
        return format!("{title} ({status}): {}", of(&problem, "detail"));
    }
    let lines = errors.iter().map(|error| {
        format!(
            "  {}: {}
    {}",
            of(error, "pointer"),
            of(error, "detail"),
            of(error, "fix")
        )
    });
    [format!("{title} ({status})")].into_iter().chain(lines).collect::<Vec<_>>().join(
        "
",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_may_lie_below_a_path_and_must_be_an_address() {
        let of =
            |url: &str| Server::new(url).unwrap().request(Method::GET, "/v1/jobs").unwrap().build().unwrap();
        assert_eq!(of("http://127.0.0.1:8080").url().as_str(), "http://127.0.0.1:8080/v1/jobs");
        assert_eq!(of("https://lab.example/mediant").url().as_str(), "https://lab.example/mediant/v1/jobs");
        for bad in ["127.0.0.1:8080", "lab", "ftp://lab"] {
            assert!(Server::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refusals_name_every_field() {
        let problem = json!({"title": "The request is not valid", "detail": "two",
                             "errors": [{"pointer": "/a", "detail": "x", "fix": "write y"}, {"pointer": "/b", "detail": "z", "fix": "w"}]});
        let said = refusal(422, &problem.to_string());
        assert_eq!(said, "The request is not valid (422)\n  /a: x\n    write y\n  /b: z\n    w");
        assert_eq!(refusal(404, &json!({"title": "T", "detail": "d"}).to_string()), "T (404): d");
        assert_eq!(refusal(502, "<html>"), "the server answered 502: <html>");
    }
}
