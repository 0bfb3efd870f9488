// Search takes "-" before a word for "without", and finds the words of a flag in every guide. A flag
// such as --max-seeds therefore asks for its section of the command line page, whose title is
// "Option --max-seeds". Queries are changed on their way to the worker that searches.
const post = Worker.prototype.postMessage;
Worker.prototype.postMessage = function (message, ...more) {
  if (typeof message?.data === "string") {
    const data = message.data
      .replace(/(^|\s)--(\w[\w-]*)/g, (_, before, flag) =>
        before + ["option", ...flag.split("-")].filter(Boolean).map((word) => `+title:${word}`).join(" ")
      )
      .replace(/(^|\s)-+(?=\w)/g, "$1");
    message = { ...message, data };
  }
  return post.call(this, message, ...more);
};
