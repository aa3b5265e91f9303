//! The guides at `/docs`: the Markdown of `docs`, embedded and rendered here. They need no script: search is a form.

mod api;
mod render;
mod search;

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Path;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use rust_embed::RustEmbed;

use self::render::{Page, escaped};
use super::{AppState, Kind, Problem, query};

#[derive(RustEmbed)]
#[folder = "docs"]
#[include = "*.md"]
#[include = "*.svg"]
#[include = "*.png"]
struct Docs;

#[derive(RustEmbed)]
#[folder = "openapi/examples"]
#[include = "*.svg"]
struct Drawn;

#[derive(RustEmbed)]
#[folder = "clients/guides"]
#[include = "*.css"]
struct Style;

/// The guides by theme, in the order of the list beside every page. Each is a file of the repository.
const GUIDES: &[(&str, &[Guide])] = &[
    ("Begin", &[of("start"), of("tutorial"), of("lab-page"), of("command-line"), PYTHON]),
    ("Ask", &[of("choosing"), of("prompts"), of("cookbook"), of("experiments"), of("generation"), EXAMPLES]),
    ("Read", &[of("reading-results"), of("errors"), of("numbers"), of("vocabulary")]),
    ("Come from elsewhere", &[of("coming-from"), of("remote")]),
    ("Run a server", &[of("serving"), of("performance"), of("architecture"), API]),
];

/// Nothing from elsewhere, and no script at all; the icon is none, so that browsers ask for none.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A guide: the last part of its path, and where its text is.
#[derive(Clone, Copy)]
struct Guide {
    slug: &'static str,
    text: Text,
}

#[derive(Clone, Copy)]
enum Text {
    /// `docs/SLUG.md`, its name in capitals.
    Docs,
    /// Another file of the repository.
    Other { file: &'static str, text: &'static str },
    /// Written from the OpenAPI document.
    Api,
}

const fn of(slug: &'static str) -> Guide {
    Guide { slug, text: Text::Docs }
}

const PYTHON: Guide = Guide {
    slug: "python",
    text: Text::Other {
        file: "clients/python/README.md",
        text: include_str!("../../../clients/python/README.md"),
    },
};
const EXAMPLES: Guide = Guide {
    slug: "examples",
    text: Text::Other {
        file: "openapi/examples/README.md",
        text: include_str!("../../../openapi/examples/README.md"),
    },
};
const API: Guide = Guide { slug: "api", text: Text::Api };

impl Guide {
    /// Its file, as links in other files lead to it.
    fn file(self) -> String {
        match self.text {
            Text::Docs => format!("docs/{}.md", self.slug.to_uppercase()),
            Text::Other { file, .. } => file.to_owned(),
            Text::Api => "openapi/openapi.json".to_owned(),
        }
    }

    fn markdown(self) -> String {
        match self.text {
            Text::Docs => {
                let file = Docs::get(&format!("{}.md", self.slug.to_uppercase()));
                file.map(|file| String::from_utf8_lossy(&file.data).into_owned()).unwrap_or_default()
            }
            Text::Other { text, .. } => text.to_owned(),
            Text::Api => api::markdown(&super::openapi()),
        }
    }
}

fn guides() -> impl Iterator<Item = Guide> {
    GUIDES.iter().flat_map(|(_, guides)| guides.iter().copied())
}

/// All guides, rendered.
struct Book {
    pages: Vec<Arc<Page>>,
}

impl Book {
    fn new() -> Self {
        // The longest by far, and what it is made from does not change while the program runs.
        static API: OnceLock<Arc<Page>> = OnceLock::new();
        let files: Vec<(String, &'static str)> = guides().map(|guide| (guide.file(), guide.slug)).collect();
        let page =
            |guide: Guide| Arc::new(Page::render(guide.slug, &guide.file(), &guide.markdown(), &files));
        let pages = guides().map(|guide| match guide.text {
            Text::Api => Arc::clone(API.get_or_init(|| page(guide))),
            _ => page(guide),
        });
        Self { pages: pages.collect() }
    }

    /// Gives `read` the book as it is now: in a debug build the files are read again, so that a change shows at the next reload.
    fn with<R>(read: impl FnOnce(&Self) -> R) -> R {
        static BOOK: OnceLock<Book> = OnceLock::new();
        if cfg!(debug_assertions) { read(&Self::new()) } else { read(BOOK.get_or_init(Self::new)) }
    }

    /// A document around a text, with the list of all guides.
    fn document(&self, title: &str, at: &str, searched: &str, text: &str) -> String {
        let mut list = String::new();
        for (theme, guides) in GUIDES {
            let _ = write!(list, "<h2>{theme}</h2><ul>");
            for guide in *guides {
                let page = self.pages.iter().find(|page| page.slug == guide.slug);
                let name = page.map_or("", |page| &page.title);
                let here = if guide.slug == at { " aria-current=\"page\"" } else { "" };
                let _ = write!(list, "<li><a href=\"/docs/{}\"{here}>{}</a></li>", guide.slug, escaped(name));
            }
            list.push_str("</ul>");
        }
        let (title, searched) = (escaped(title), escaped(searched));
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title} · mediant</title>\
             <link rel=\"icon\" href=\"data:,\"><link rel=\"stylesheet\" href=\"/docs/guide.css\"></head><body>\
             <a class=\"skip\" href=\"#text\">To the text</a><header><a href=\"/\">mediant</a>\
             <form action=\"/docs/search\" role=\"search\"><input type=\"search\" name=\"q\" value=\"{searched}\" \
             aria-label=\"Search the guides\" placeholder=\"Search the guides\" maxlength=\"200\" required><button>Search</button></form>\
             </header><nav aria-label=\"Guides\">{list}</nav><main id=\"text\">{text}</main></body></html>"
        )
    }
}

/// The routes of this module. They are no part of the API, so its document does not have them.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/docs", get(async || Redirect::permanent("/docs/start")))
        .route("/docs/search", get(found))
        .route("/docs/{page}", get(page))
}

async fn page(Path(name): Path<String>) -> Result<Response, Problem> {
    if let Some((_, ending)) = name.rsplit_once('.') {
        return file(&name, ending);
    }
    let document = Book::with(|book| {
        let page = book.pages.iter().find(|page| page.slug == name)?;
        Some(book.document(&page.title, page.slug, "", &page.html))
    });
    document.map(html).ok_or_else(|| {
        let slugs: Vec<&str> = guides().map(|guide| guide.slug).collect();
        Problem::new(Kind::NotFound, format!("there is no guide {name:?}; there are {}", slugs.join(", ")))
    })
}

async fn found(parts: Parts) -> Result<Response, Problem> {
    let mut query = query(&parts, &["q"])?;
    let wanted = query.remove("q").unwrap_or_default();
    Ok(html(Book::with(|book| {
        let text = search::found(&book.pages, &wanted);
        book.document(&format!("Search: {wanted}"), "", &wanted, &text)
    })))
}

/// A picture, or the style.
fn file(name: &str, ending: &str) -> Result<Response, Problem> {
    let (file, kind) = match ending {
        "svg" => (Docs::get(name).or_else(|| Drawn::get(name)), "image/svg+xml"),
        "png" => (Docs::get(name), "image/png"),
        "css" => (Style::get(name), "text/css; charset=utf-8"),
        _ => (None, ""),
    };
    let file =
        file.ok_or_else(|| Problem::new(Kind::NotFound, format!("the guides have no file {name:?}")))?;
    // A drawing is opened by itself, too.
    Ok(([(header::CONTENT_TYPE, kind)], guards(), file.data.into_owned()).into_response())
}

fn html(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], guards(), text).into_response()
}

fn guards() -> [(HeaderName, HeaderValue); 4] {
    [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_a_guide() {
        for file in Docs::iter() {
            let Some(name) = file.strip_suffix(".md") else { continue };
            let slug = name.to_lowercase();
            assert!(guides().any(|guide| guide.slug == slug), "docs/{file} is in no list of guides");
        }
    }

    #[test]
    fn every_guide_has_a_title_a_text_and_links_that_lead_somewhere() {
        let book = Book::new();
        let anchors: Vec<String> = book
            .pages
            .iter()
            .flat_map(|page| {
                let of = move |section: &render::Section| format!("/docs/{}#{}", page.slug, section.anchor);
                page.sections.iter().map(of).chain([format!("/docs/{}", page.slug)])
            })
            .collect();
        for page in &book.pages {
            assert!(!page.title.is_empty() && page.html.len() > 400, "{}", page.slug);
            let links = page.html.split("href=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0));
            for rest in links {
                let link = if rest.starts_with('#') {
                    format!("/docs/{}{rest}", page.slug)
                } else {
                    rest.to_owned()
                };
                if link.starts_with("/docs/") {
                    let is_file = link.trim_start_matches("/docs/").contains('.') && !link.contains('#');
                    assert!(is_file || anchors.contains(&link), "{}: {rest} leads nowhere", page.slug);
                }
            }
            for unserved in &page.unserved {
                let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(unserved);
                assert!(path.exists(), "{}: there is no {unserved}", page.slug);
            }
        }
    }
}
