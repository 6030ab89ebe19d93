/** The playground, put together. */

import * as api from "./api.js";
import { announce } from "./announce.js";
import { copies } from "./clipboard.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { byId, part } from "./dom.js";
import { showFault } from "./fault.js";
import { History } from "./history.js";
import * as places from "./place.js";
import { Scroll } from "./scroll.js";
import { setUpSide } from "./side.js";

const scroll = new Scroll();
const history = new History({ failed: fail });
const conversation = new Conversation({ painted: () => scroll.follow(), changed: showState });
const composer = new Composer({ send, stop });

function fail(error) {
  showFault(part(byId("alert"), "said"), error);
  byId("alert").hidden = false;
}

function dismiss() {
  byId("alert").hidden = true;
  part(byId("alert"), "said").replaceChildren();
  composer.unmark();
}

function showState() {
  byId("session").textContent = conversation.sessionId;
  byId("empty").hidden = byId("turns").childElementCount > 0;
  composer.showRunning(conversation.liveIds.length > 0);
  history.mark(conversation.sessionId);
  history.refresh();
}

async function send(body, transport) {
  dismiss();
  scroll.pin();
  const session = conversation.sessionId;
  try {
    await conversation.send({ ...body, session_id: session }, transport);
    places.keep(session);
    return true;
  } catch (error) {
    fail(error);
    composer.refuse(error.fields);
    return false;
  }
}

async function stop() {
  try {
    await conversation.stop();
    composer.focus();
  } catch (error) {
    fail(error);
  }
}

function begin() {
  dismiss();
  conversation.begin(places.newSession());
}

async function go() {
  const { session, request } = places.place();
  if (!session) {
    begin();
    return;
  }
  dismiss();
  try {
    if (session !== conversation.sessionId) await conversation.open(session, composer.transport);
  } catch (error) {
    fail(error);
    showState();
  }
  const turn = conversation.turn(request);
  if (turn) {
    scroll.release();
    turn.reveal();
  } else {
    scroll.pin();
  }
}

async function meetModels() {
  const { data } = await api.models();
  composer.offer(data);
  conversation.model = data[0].id;
  byId("attach").hidden = !data.every(({ backend }) => backend === "echo");
}

function startOver() {
  places.leave();
  begin();
  composer.focus();
  announce("New conversation.");
}

setUpSide();
copies(byId("copy-session"), () => conversation.sessionId);
copies(byId("copy-attach"), () => byId("attach-line").textContent);
byId("new").addEventListener("click", startOver);
byId("dismiss").addEventListener("click", () => {
  dismiss();
  composer.focus();
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  composer.focus();
});
addEventListener("popstate", go);
meetModels().catch(fail);
go();
