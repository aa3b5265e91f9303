//! Markdown to HTML: headings get anchors, links lead to other guides, several forms of one request become tabs.

use std::fmt::Write as _;

use pulldown_cmark::{CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd, html};

/// A guide, rendered.
pub(super) struct Page {
    pub(super) slug: &'static str,
    pub(super) title: String,
    pub(super) html: String,
    pub(super) sections: Vec<Section>,
    /// Files of the repository that it links to and that are not served.
    pub(super) unserved: Vec<String>,
}

/// What is below one heading, for the search.
#[derive(Default)]
pub(super) struct Section {
    pub(super) heading: String,
    pub(super) anchor: String,
    pub(super) text: String,
}

/// Languages in which one request can be written, with the names of their tabs.
const FORMS: [(&str, &str); 5] = [
    (PAGE, "Lab page"),
    ("python", "Python"),
    ("console", "Command line"),
    ("curl", "curl"),
    ("json", "JSON"),
];
/// A link of the lab page as a fence.
const PAGE: &str = "page";

impl Page {
    /// `files` are those that are guides, with their slugs.
    pub(super) fn render(
        slug: &'static str,
        file: &str,
        markdown: &str,
        files: &[(String, &'static str)],
    ) -> Self {
        let mut page = Self {
            slug,
            title: String::new(),
            html: String::new(),
            sections: Vec::new(),
            unserved: Vec::new(),
        };
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
        let events: Vec<Event<'_>> = Parser::new_ext(markdown, options).collect();
        let events = page.headed(events);
        let events = page.linked(events, file, files);
        html::push_html(&mut page.html, tabbed(&events).into_iter());
        page.html = scrolled(&page.html);
        page
    }

    /// Gives headings anchors, keeps the text of every section, and lets no raw HTML through.
    fn headed<'a>(&mut self, events: Vec<Event<'a>>) -> Vec<Event<'a>> {
        let mut out: Vec<Event<'a>> = Vec::with_capacity(events.len());
        // Where the heading that is being read begins.
        let mut began = None;
        for event in events {
            match &event {
                Event::Start(Tag::Heading { .. }) => {
                    began = Some(out.len());
                    self.sections.push(Section::default());
                }
                Event::Html(_) | Event::InlineHtml(_) => continue,
                Event::Text(text) | Event::Code(text) => {
                    if let Some(section) = self.sections.last_mut() {
                        let into = if began.is_some() { &mut section.heading } else { &mut section.text };
                        into.push_str(text);
                    }
                }
                Event::SoftBreak
                | Event::End(TagEnd::TableCell | TagEnd::Paragraph | TagEnd::Item | TagEnd::CodeBlock) => {
                    if let Some(section) = self.sections.last_mut() {
                        section.text.push(' ');
                    }
                }
                Event::End(TagEnd::Heading(_)) => {
                    let named = self.anchored();
                    if let (Some(at), Some(anchor)) = (began.take(), named)
                        && let Event::Start(Tag::Heading { id, .. }) = &mut out[at]
                    {
                        *id = Some(CowStr::from(anchor));
                    }
                }
                _ => {}
            }
            out.push(event);
        }
        self.title = self.sections.first().map(|section| section.heading.clone()).unwrap_or_default();
        out
    }

    /// The anchor of the last heading, as GitHub makes it; one that is there already gets a number.
    fn anchored(&mut self) -> Option<String> {
        let (last, before) = self.sections.split_last_mut()?;
        let letters = last.heading.to_lowercase();
        let kept = letters.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let base: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let taken = |anchor: &String| before.iter().any(|section| section.anchor == *anchor);
        let numbered = (1..).map(|n| format!("{base}-{n}"));
        last.anchor = [base.clone()].into_iter().chain(numbered).find(|anchor| !taken(anchor))?;
        Some(last.anchor.clone())
    }

    /// Links lead to guides and pictures here; of one to a file that is not served, its text alone stays.
    fn linked<'a>(
        &mut self,
        events: Vec<Event<'a>>,
        file: &str,
        files: &[(String, &'static str)],
    ) -> Vec<Event<'a>> {
        let mut out = Vec::with_capacity(events.len());
        // Of each link and picture that is open, whether it stays.
        let mut open = Vec::new();
        for mut event in events {
            let stays = match &mut event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    let found = target(dest_url, file, files).map(|link| *dest_url = CowStr::from(link));
                    open.push(found.is_ok());
                    self.unserved.extend(found.err());
                    open.last().copied()
                }
                Event::End(TagEnd::Link | TagEnd::Image) => open.pop(),
                _ => None,
            };
            if stays != Some(false) {
                out.push(event);
            }
        }
        out
    }
}

/// Where a link of a file leads to here, or the file of the repository that it names.
fn target(link: &str, file: &str, files: &[(String, &'static str)]) -> Result<String, String> {
    if link.starts_with('#') || link.starts_with('/') || link.contains("://") {
        return Ok(link.to_owned());
    }
    let (path, anchor) =
        link.split_once('#').map_or((link, String::new()), |(path, at)| (path, format!("#{at}")));
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." | "" => {}
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    if let Some((_, slug)) = files.iter().find(|(file, _)| *file == path) {
        return Ok(format!("/docs/{slug}{anchor}"));
    }
    let picture = ["docs/", "openapi/examples/"].iter().find_map(|folder| path.strip_prefix(folder));
    let is_picture = |name: &&str| matches!(name.rsplit_once('.'), Some((_, "svg" | "png")));
    let picture = picture.filter(is_picture);
    picture.map(|name| format!("/docs/{name}")).ok_or(path)
}

/// Fences that follow each other in several languages are one request in several forms: tabs, by the style alone.
fn tabbed<'a>(events: &[Event<'a>]) -> Vec<Event<'a>> {
    let mut out = Vec::with_capacity(events.len());
    let mut groups = 0;
    let mut at = 0;
    while at < events.len() {
        let mut blocks = Vec::new();
        let mut end = at;
        while let Some((name, length)) = form(&events[end..]) {
            blocks.push((name, end..end + length));
            end += length;
        }
        if blocks.len() == 1 && blocks[0].0 == FORMS[0].1 {
            out.extend(opened(&events[at..end]));
            at = end;
            continue;
        }
        if blocks.len() < 2 {
            out.push(events[at].clone());
            at += 1;
            continue;
        }
        groups += 1;
        let mut labels = String::new();
        for (i, (name, _)) in blocks.iter().enumerate() {
            let checked = if i == 0 { " checked" } else { "" };
            let _ = write!(
                labels,
                "<input type=\"radio\" name=\"tabs{groups}\" id=\"tab{groups}-{i}\"{checked}><label for=\"tab{groups}-{i}\">{name}</label>"
            );
        }
        out.push(Event::Html(format!("<div class=\"tabs\">{labels}").into()));
        for (name, block) in blocks {
            out.push(Event::Html("<div>".into()));
            let block = &events[block];
            out.extend(if name == FORMS[0].1 { opened(block) } else { block.to_vec() });
            out.push(Event::Html("</div>".into()));
        }
        out.push(Event::Html("</div>".into()));
        at = end;
    }
    out
}

/// What may be wider than a phone can be scrolled with keys, too. In a text these tags are escaped, and raw HTML is let through
/// nowhere.
fn scrolled(html: &str) -> String {
    html.replace("<pre>", "<pre tabindex=\"0\">")
        .replace("<table>", "<div class=\"wide\" tabindex=\"0\"><table>")
        .replace("</table>", "</table></div>")
}

/// The link in a fence, to this server's own page.
fn opened<'a>(fence: &[Event<'a>]) -> Vec<Event<'a>> {
    let text: String = fence
        .iter()
        .filter_map(|event| if let Event::Text(text) = event { Some(&**text) } else { None })
        .collect();
    let place = text.trim().split_once("/#").map_or("", |(_, place)| place);
    let link = format!("<p class=\"page\"><a href=\"/#{}\">Open it on the lab page</a></p>", escaped(place));
    vec![Event::Html(link.into())]
}

/// The name of the fence that begins here, if it is a form of a request, and of how many events it is.
fn form(events: &[Event<'_>]) -> Option<(&'static str, usize)> {
    let Some(Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info)))) = events.first() else { return None };
    let language = info.split_whitespace().next()?;
    let (_, name) = FORMS.iter().find(|(known, _)| *known == language)?;
    let length = events.iter().position(|event| matches!(event, Event::End(TagEnd::CodeBlock)))? + 1;
    Some((name, length))
}

/// A text within HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(markdown: &str) -> Page {
        let files = [("docs/OTHER.md".to_owned(), "other")];
        Page::render("this", "docs/THIS.md", markdown, &files)
    }

    #[test]
    fn headings_have_anchors_and_links_lead_to_guides() {
        let page = page(
            "# A `b` c!\n[x](OTHER.md#there) [y](../src/lib.rs) [z](https://z) ![p](p.svg) [![q](q.jpg)](OTHER.md)\n## A b c\n",
        );
        assert!(
            page.html.contains("<h1 id=\"a-b-c\">") && page.html.contains("<h2 id=\"a-b-c-1\">"),
            "{}",
            page.html
        );
        assert!(
            page.html.contains("<a href=\"/docs/other#there\">x</a> y <a href=\"https://z\">"),
            "{}",
            page.html
        );
        assert!(page.html.contains("src=\"/docs/p.svg\""), "{}", page.html);
        assert!(page.html.contains("<a href=\"/docs/other\">q</a>"), "{}", page.html);
        assert_eq!(
            (page.title.as_str(), &page.unserved[..]),
            ("A b c!", &["src/lib.rs".to_owned(), "docs/q.jpg".to_owned()][..])
        );
    }

    #[test]
    fn raw_html_is_dropped_and_code_is_escaped() {
        let page = page("# T\n<script>alert(1)</script>\n\na <b onclick=x>c</b> `<i>`\n\n```\n<u>\n```\n");
        assert!(
            !page.html.contains("<script") && !page.html.contains("<b ") && !page.html.contains("<i>"),
            "{}",
            page.html
        );
        assert!(page.html.contains("&lt;i&gt;") && page.html.contains("&lt;u&gt;"), "{}", page.html);
    }

    #[test]
    fn a_link_of_the_lab_page_leads_to_this_servers_own() {
        let page = page("# T\n```page run\nhttp://localhost:8080/#/trace?prompt=a&target=\"b\n```\n");
        let link = "<a href=\"/#/trace?prompt=a&amp;target=&quot;b\">Open it on the lab page</a>";
        assert!(page.html.contains(link) && !page.html.contains("<pre"), "{}", page.html);
    }

    #[test]
    fn what_may_be_wide_can_be_scrolled_with_keys() {
        let page = page("# T\n| a |\n|---|\n| `<table>` |\n\n```\n<pre>\n```\n");
        assert_eq!(page.html.matches("tabindex=\"0\"").count(), 2, "{}", page.html);
        assert!(page.html.contains("&lt;table&gt;") && page.html.contains("</table></div>"), "{}", page.html);
    }

    #[test]
    fn fences_in_several_languages_are_tabs() {
        let page = page(
            "# T\n```python run\na\n```\n```console run\nb\n```\n\n```output\nc\n```\n\ntext\n\n```json\n{}\n```\n",
        );
        assert_eq!(page.html.matches("<input type=\"radio\"").count(), 2, "{}", page.html);
        assert_eq!(page.html.matches("class=\"tabs\"").count(), 1);
        assert!(page.html.contains(" checked><label for=\"tab1-0\">Python</label>"), "{}", page.html);
    }
}
