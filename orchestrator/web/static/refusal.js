/** The fields of a form that the API refused; what each is told stands in the alert. */

/** Mark the fields named in `refused`, and return the first. */
export function mark(form, refused) {
  const marked = [...form.elements].filter(({ name }) => Object.hasOwn(refused, name));
  for (const field of marked) field.ariaInvalid = "true";
  return marked[0];
}

export function unmark(form) {
  for (const field of form.querySelectorAll("[aria-invalid]")) field.ariaInvalid = null;
}
