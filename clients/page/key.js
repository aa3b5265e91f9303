// The one place where the key is kept and sent from: this tab's session storage. It is in no link, copy or log.

const NAME = 'mediant-key';

export const key = {
  get: () => sessionStorage.getItem(NAME) ?? '',
  set: text => (text ? sessionStorage.setItem(NAME, text) : sessionStorage.removeItem(NAME)),
  header: () => (key.get() ? { authorization: `Bearer ${key.get()}` } : {}),
};
